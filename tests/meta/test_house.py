"""House rules that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tree import ROOT, files, imports, name_of, sources

LONGEST_FILE = 1000

#: Calls and attributes that turn an integer into memory.
RAW = {"from_address", "memmove", "memset", "string_at", "wstring_at", "memoryview_at"}
#: Folders whose subject is raw memory or machine code.
RAW_FOLDERS = ("migproxy/jit/", "migproxy/softgpu/ptx/", "tests/")
#: Single files, each with the reason why its raw memory is not in a file named *_unsafe.py.
RAW_FILES = {
    "migproxy/arena/ring.py": "the ring's header and slots, at offsets of abi/layout.py from the arena's own mapping",
    "migproxy/arena/segment.py": "reserves and maps the windows",
    "migproxy/broker/leases.py": "words of the lease page, at offsets of abi/lease.py from the broker's own mapping",
    "migproxy/executor/lease.py": "the same page in the executor",
    "migproxy/executor/pump_tables.py": "words of the pump's state block, at its own offsets from its own allocation",
    "migproxy/host_memory.py": "gives a block of the heap out as a buffer",
    "migproxy/session/api/modules.py": "the length of PTX that the caller passes by address only: text up to its NUL",
}

#: Put together from pieces, so that this file passes its own test.
FORBIDDEN = {
    "a path of one machine": "|".join(("/" + r"work/(?:main|env|shared)\b", "/" + r"home/[a-z]+/", "/" + "root/")),
    "a registry host": "|".join(("pypi" + r"\.org", "files\\." + "pythonhosted", "--index" + "-url", "PIP_" + "INDEX")),
    "an unresolved merge": "^" + "<" * 7 + " ",
}

EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))


def test_files_are_short() -> None:
    long = [name_of(path) for path in files() if len(path.read_text().splitlines()) > LONGEST_FILE]
    assert not long


def raw_uses(source: str) -> list[int]:
    """Return the lines that turn integers into memory."""
    found = []
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        # driver.memset(...) and friends are driver calls; ctypes.memset is not.
        of_ctypes = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ctypes"
        if name in RAW and (name == "from_address" or of_ctypes):
            found.append(node.lineno)  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom) and node.module == "ctypes" and RAW & {each.name for each in node.names}:
            found.append(node.lineno)
    return found


def test_raw_memory_stays_where_it_is_expected() -> None:
    """Move it into a file named *_unsafe.py, or say in RAW_FILES why not."""
    found = []
    for path in sources("migproxy", "plugins"):
        name = name_of(path)
        if path.name.endswith("_unsafe.py") or name.startswith(RAW_FOLDERS) or name in RAW_FILES:
            continue
        found += [f"{name}:{line}" for line in raw_uses(path.read_text())]
    assert not found


def test_raw_memory_is_found() -> None:
    assert raw_uses("import ctypes\nctypes.memmove(1, 2, 3)\nx = ctypes.c_int.from_address(4)\nself.memset(1)") == [
        2,
        3,
    ]
    assert raw_uses("from ctypes import string_at") == [1]


def test_exceptions_for_raw_memory_are_needed() -> None:
    """An exception that a file no longer needs is dropped from the list."""
    needed = {name for name in RAW_FILES if (ROOT / name).exists() and raw_uses((ROOT / name).read_text())}
    assert needed | {"migproxy/arena/segment.py"} == set(RAW_FILES)


def test_every_module_says_what_it_is() -> None:
    silent = []
    for path in sources("migproxy", "plugins"):
        source = path.read_text()
        if source.strip() and not ast.get_docstring(ast.parse(source)):
            silent.append(name_of(path))
    assert not silent, "these have no docstring"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_of_one_machine_gets_in(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what], re.MULTILINE)
    found = [(name_of(path), match[0]) for path in files() if (match := pattern.search(path.read_text()))]
    assert not found


def test_there_are_five_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_examples_do_not_know_migproxy(path: Path) -> None:
    assert "migproxy" not in path.read_text().lower()


def test_nothing_unpickles_across_the_boundary() -> None:
    """Only `calling`, between a caller and its own child, may."""
    found = []
    for path in sources("migproxy", "plugins"):
        if name_of(path) == "migproxy/calling.py":
            continue
        for line, module in imports(path):
            if module.split(".")[0] in {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}:
                found.append(f"{name_of(path)}:{line} imports {module}")
    assert not found
