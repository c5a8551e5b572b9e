"""Write plugins/cuda/data/*.json: every function of the CUDA driver and runtime APIs as cuda-bindings declares it,
and struct layouts.

Usage: ``python tools/make_cuda_tables.py [DIRECTORY]`` reads the cuda-bindings package in DIRECTORY (an unpacked
wheel; default: the
installed one) and writes the tables of its major version. It reads the ``.pxd`` files for C names, types and struct
fields, and the
embedded signatures of ``cuda.bindings.driver`` and ``.runtime`` for which pointer parameters are outputs (the Python
functions do not
take those). No GPU is needed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "plugins" / "cuda" / "data"

#: C scalars: size, alignment, signed/unsigned/float.
SCALARS: dict[str, tuple[int, str]] = {
    "char": (1, "i"),
    "signed char": (1, "i"),
    "unsigned char": (1, "u"),
    "bool": (1, "u"),
    "short": (2, "i"),
    "unsigned short": (2, "u"),
    "int": (4, "i"),
    "unsigned int": (4, "u"),
    "unsigned": (4, "u"),
    "long": (8, "i"),
    "unsigned long": (8, "u"),
    "long long": (8, "i"),
    "unsigned long long": (8, "u"),
    "size_t": (8, "u"),
    "float": (4, "f"),
    "double": (8, "f"),
    "uint32_t": (4, "u"),
    "uint64_t": (8, "u"),
    "int32_t": (4, "i"),
    "int64_t": (8, "i"),
    "uint8_t": (1, "u"),
    "cuuint32_t": (4, "u"),
    "cuuint64_t": (8, "u"),
    "uintptr_t": (8, "u"),
    "intptr_t": (8, "i"),
}
#: Members of anonymous C unions, which the ``.pxd`` files list one after another: member → the member it shares its
#: place with.
OVERLAYS: dict[tuple[str, str], str] = {
    ("CUmemLocation_st", "localized"): "id",
    ("cudaMemLocation", "localized"): "id",
    ("CUDA_EVENT_RECORD_NODE_PARAMS_st", "gCtx"): "ctx",
    ("CUDA_EXT_SEM_SIGNAL_NODE_PARAMS_v2_st", "gCtx"): "ctx",
    ("CUDA_EXT_SEM_WAIT_NODE_PARAMS_v2_st", "gCtx"): "ctx",
    ("cudaKernelNodeParamsV2", "kern"): "func",
    ("cudaKernelNodeParamsV2", "cuFunc"): "func",
}
_BLOCK = re.compile(r"^(\s*)(?:cdef|ctypedef)\s+(struct|union|enum)\s+(\w+)(?:\s+(?:'[^']*'|\"[^\"]*\"))?\s*:\s*$")
_FORWARD = re.compile(r"^\s*(?:cdef|ctypedef)\s+(struct|union)\s+(\w+)\s*$")
_TYPEDEF = re.compile(r"^\s*ctypedef\s+(.*?[\w*)])\s*(?:'[^']*'|\"[^\"]*\")?\s*$")
_FUNCTION = re.compile(r"^cdef\s+(.*?)\b(\w+)\((.*)\)\s+except\s*(\?\s*\w+|\*)?\s*(?:nogil)?\s*$")
_NOEXCEPT = re.compile(r"^cdef\s+(.*?)\b(\w+)\((.*)\)\s+(?:except\s*\*|noexcept)?\s*nogil\s*$")


@dataclass
class Declarations:
    """What one pxd file declares."""

    structs: dict[str, tuple[str, list[tuple[str, str, int]]]] = field(
        default_factory=dict
    )  # kind, [(type, name, count)]
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    typedefs: dict[str, str] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    functions: dict[str, tuple[str, list[tuple[str, str]], str]] = field(default_factory=dict)

    def resolve(self, name: str) -> str:
        """Follow typedefs to a scalar, struct, enum or pointer type."""
        name = normal(name)
        seen = set()
        while name in self.typedefs and name not in seen:
            seen.add(name)
            name = normal(self.typedefs[name])
        return name

    def layout(self, name: str) -> tuple[int, int]:
        """Return (size, alignment) of a type."""
        name = self.resolve(name)
        if name.endswith("*"):
            return 8, 8
        if name in SCALARS:
            size = SCALARS[name][0]
            return size, size
        if name in self.enums:
            return 4, 4
        if name in self.structs:
            size, alignment, _ = self.struct_layout(name)
            return size, alignment
        raise KeyError(name)

    def struct_layout(self, name: str) -> tuple[int, int, list[list[Any]]]:
        """Return (size, alignment, [[field, offset, size, type]]) by the x86-64 rules."""
        kind, members = self.structs[self.resolve(name)]
        offset = size = 0
        alignment = 1
        fields: list[list[Any]] = []
        for ctype, member, count in members:
            each, align = self.layout(ctype)
            alignment = max(alignment, align)
            if kind == "union":
                offset = 0
            shared = OVERLAYS.get((self.resolve(name), member))
            if shared is not None:
                offset = next(f[1] for f in fields if f[0] == shared)
            offset = (offset + align - 1) // align * align
            fields.append([member, offset, each * count, ctype if count == 1 else f"{ctype}[{count}]"])
            offset += each * count
            size = max(size, offset)
        return (size + alignment - 1) // alignment * alignment, alignment, fields


def normal(ctype: str) -> str:
    """Return a C type without const, struct and superfluous blanks, pointers as a suffix."""
    ctype = re.sub(r"\b(const|struct|union|enum)\b", " ", ctype)
    stars = ctype.count("*")
    return " ".join(ctype.replace("*", " ").split()) + "*" * stars


def split_parameter(text: str) -> tuple[str, str]:
    """Split ``const char** name`` into type and name."""
    found = re.match(r"^(.*?[\s*])(\w+)\s*((?:\[\w*\])*)$", text.strip())
    if found is None:
        return text.strip(), ""
    ctype = found.group(1).strip() + "*" * found.group(3).count("[")
    return ctype, found.group(2)


def parse(text: str) -> Declarations:
    """Parse a pxd file."""
    found = Declarations()
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        line = re.sub(r"\s+#.*$", "", lines[i])
        block = _BLOCK.match(line)
        if block:
            indent, kind, name = len(block.group(1)), block.group(2), block.group(3)
            body = []
            i += 1
            while i < len(lines) and (not lines[i].strip() or len(lines[i]) - len(lines[i].lstrip()) > indent):
                if lines[i].strip() and not lines[i].strip().startswith("#"):
                    body.append(lines[i].strip())
                i += 1
            if kind == "enum":
                found.enums[name] = {}
                for entry in body:
                    parts = entry.split("=")
                    value = parts[1].strip() if len(parts) > 1 else ""
                    label = parts[0].split()[0]
                    found.enums[name][label] = int(value, 0) if re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)", value) else -1
            else:
                members = []
                for entry in body:
                    if entry == "pass":
                        continue
                    member = re.match(r"^(.*?[\s*])(\w+)((?:\[\w+\])*)$", entry)
                    if member is None:
                        raise ValueError(f"cannot read member {entry!r} of {name}")
                    count = 1
                    for dimension in re.findall(r"\[(\w+)\]", member.group(3)):
                        count *= int(dimension)
                    members.append((member.group(1).strip(), member.group(2), count))
                if members:
                    found.structs[name] = (kind, members)
                else:
                    found.opaque.add(name)
            continue
        i += 1
        forward = _FORWARD.match(line)
        if forward:
            found.opaque.add(forward.group(2))
            continue
        function = _FUNCTION.match(line) or _NOEXCEPT.match(line)
        if function:
            result, name, parameters = function.group(1).strip(), function.group(2), function.group(3).strip()
            exception = (function.group(4) if function.re is _FUNCTION else "") or ""
            arguments = (
                [split_parameter(p) for p in split_arguments(parameters)] if parameters not in ("", "void") else []
            )
            found.functions[name] = (result, arguments, exception.replace("?", "").strip())
            continue
        callback = re.match(r"^\s*ctypedef\s+[\w\s]+\(\s*\*\s*(\w+)\b", line)
        if callback:
            found.typedefs[callback.group(1)] = "void*"
            continue
        typedef = _TYPEDEF.match(line)
        if typedef and "(" not in line.split("'")[0].split('"')[0]:
            pair = re.match(r"^(.*?[\s*])(\w+)$", typedef.group(1))
            if pair and pair.group(1).strip() not in ("struct", "union", "enum"):
                found.typedefs[pair.group(2)] = pair.group(1).strip()
    return found


def split_arguments(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def embedded_signatures(package: Path, module: str) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the parameter names of each Python-level function and the size of each struct, read in a child process."""
    code = (
        "import importlib, json, sys\n"
        f"m = importlib.import_module('cuda.bindings.{module}')\n"
        "out = {}\n"
        "for n in dir(m):\n"
        "    d = getattr(getattr(m, n), '__doc__', None)\n"
        "    if n.startswith('cu') and callable(getattr(m, n)) and d and d.startswith(n + '('):\n"
        "        out[n] = d[: d.index('\\n')] if '\\n' in d else d\n"
        "sizes = {}\n"
        "for n in dir(m):\n"
        "    if isinstance(getattr(m, n), type):\n"
        "        try: sizes[n] = m.sizeof(getattr(m, n))\n"
        "        except TypeError: pass\n"
        "print(json.dumps([out, sizes]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(package)!r})\nimport cuda; "
         f"cuda.__path__.insert(0, {str(package / 'cuda')!r}) if hasattr(cuda.__path__, 'insert') else None\n" + code],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    signatures = {}
    texts, sizes = json.loads(run.stdout)
    for name, text in texts.items():
        inside = text[text.index("(") + 1 : text.rindex(")")]
        signatures[name] = [re.sub(r"[:=].*", "", p).split()[-1] for p in split_arguments(inside) if p.strip()]
    return signatures, sizes


def table(declared: Declarations, signatures: dict[str, list[str]], sizes: dict[str, int]) -> dict[str, Any]:
    """Return the JSON table of one API."""
    functions: dict[str, Any] = {}
    for name, (result, arguments, exception) in sorted(declared.functions.items()):
        takes = signatures.get(name)
        functions[name] = {
            "result": normal(result),
            "exception": exception,
            "arguments": [
                [ctype.replace(" *", "*"), argument, "out" if is_output(ctype, argument, takes) else "in"]
                for ctype, argument in arguments
            ],
        }
    structs = {}
    for name in sorted(declared.structs):
        try:
            size, alignment, fields = declared.struct_layout(name)
        except KeyError as error:
            print(f"  struct {name}: unknown type {error}", file=sys.stderr)
            continue
        names = [name, *(alias for alias in declared.typedefs if declared.resolve(alias) == name)]
        known = {sizes[n] for n in names if n in sizes}
        if known and known != {size}:
            # An anonymous union that OVERLAYS does not name: better no layout than a wrong one.
            print(f"  struct {name}: computed {size} bytes, the library says {known}; left out", file=sys.stderr)
            continue
        structs[name] = {"size": size, "align": alignment, "fields": fields}
    aliases = {}
    for name in sorted(declared.typedefs):
        target = declared.resolve(name)
        if target in declared.enums:
            aliases[name] = "enum"
        elif target in declared.structs and target in structs:
            aliases[name] = target
        elif target.endswith("*"):
            aliases[name] = "pointer"
        elif target in SCALARS:
            aliases[name] = target
    for name in declared.enums:
        aliases[name] = "enum"
    return {"functions": functions, "structs": structs, "types": dict(sorted(aliases.items()))}


def is_output(ctype: str, argument: str, takes: list[str] | None) -> bool:
    """Whether a parameter is an output: a non-const pointer that the Python function does not take."""
    return "*" in ctype and not ctype.lstrip().startswith("const") and takes is not None and argument not in takes


def main() -> int:
    """Write the tables of one cuda-bindings package."""
    if len(sys.argv) > 1:
        package = Path(sys.argv[1]).resolve()
    else:
        import cuda.bindings

        package = Path(cuda.bindings.__file__).resolve().parent.parent.parent
    bindings = package / "cuda" / "bindings"
    info = next(package.glob("cuda_bindings-*.dist-info"))
    full = info.name.removeprefix("cuda_bindings-").removesuffix(".dist-info")
    major = full.split(".")[0]
    DATA.mkdir(exist_ok=True)
    driver_text = (bindings / "cydriver.pxd").read_text()
    for module in ("driver", "runtime"):
        text = (bindings / f"cy{module}.pxd").read_text()
        for included in re.findall(r'^include "([\w.]+)"', text, re.M):
            text = (bindings / included).read_text() + text
        declared = parse(text)
        if module == "runtime":
            driver = parse(driver_text)
            for key, value in driver.typedefs.items():
                declared.typedefs.setdefault(key, value)
            declared.enums.update({k: v for k, v in driver.enums.items() if k not in declared.enums})
            for key, struct in driver.structs.items():
                declared.structs.setdefault(key, struct)
        out = table(declared, *embedded_signatures(package, module))
        out = {"library": f"cuda-bindings {full}", **out}
        path = DATA / f"{module}_{major}.json"
        path.write_text(render(out))
        print(f"{path.relative_to(ROOT)}: {len(out['functions'])} functions, {len(out['structs'])} structs")
    return 0


def render(out: dict[str, Any]) -> str:
    """Return JSON with one function, struct or type a line, so that a new release shows as a readable difference."""
    parts = [f'"library": {json.dumps(out["library"])}']
    for key in ("functions", "structs", "types"):
        entries = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in out[key].items())
        parts.append(f'"{key}": {{\n{entries}\n }}')
    return "{\n " + ",\n ".join(parts) + "\n}\n"


if __name__ == "__main__":
    raise SystemExit(main())
