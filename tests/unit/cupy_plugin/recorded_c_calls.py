"""Run CuPy's real modules of cuBLAS, cuRAND and cuFFT over libraries that only write down how they are called.

Usage: ``python recorded_c_calls.py FOLDER``, with libraries from `build` in FOLDER on ``LD_LIBRARY_PATH``. It calls
every function of the modules, asks `native_unsafe` what each comes down to, and prints both as JSON, one call a line.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

MODULES = {"cublas": "cupy_backends.cuda.libs.cublas", "curand": "cupy_backends.cuda.libs.curand"}
CUFFT = "cupy.cuda.cufft"
STREAM = 0
#: What never travels.
LOCAL = ("setStream", "getStream")
WORDS = 24
LOG = """
#include <string.h>
static struct {{ const char *name; unsigned long words[{words}]; double numbers[2]; }} calls[64];
static int count;
int recorded(int index, const char **name, unsigned long *words, double *numbers) {{
    if (index >= count) {{ count = 0; return 0; }}
    *name = calls[index].name;
    memcpy(words, calls[index].words, sizeof calls[index].words);
    memcpy(numbers, calls[index].numbers, sizeof calls[index].numbers);
    return 1;
}}
"""
FUNCTION = """
int {name}({parameters}, double x, double y) {{
    unsigned long words[] = {{ {arguments} }};
    if (count < 64) {{
        calls[count].name = "{name}";
        memcpy(calls[count].words, words, sizeof words);
        calls[count].numbers[0] = x; calls[count].numbers[1] = y;
        count++;
    }}
    {more}
    return 0;
}}
"""


#: Functions that say how large a plan's work area is to be: none.
SIZES = {"cufftMakePlan1d": "*(unsigned long *)a4 = 0;", "cufftMakePlanMany": "*(unsigned long *)a11 = 0;"}


def origin(module: str) -> str:
    """Return the file of a module without importing it."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    return found.origin


def needed(file: str, prefix: str) -> tuple[str, list[str]]:
    """Return the library that an extension module needs, and the functions that it takes from it."""
    text = Path(file).read_bytes()
    (library,) = {each.decode() for each in re.findall(rb"lib%s\.so\.\d+" % prefix.encode(), text)}
    names = {each.decode() for each in re.findall(rb"(?<=\0)%s[A-Z]\w+(?=\0)" % prefix.encode(), text)}
    return library, sorted(names)


def build(folder: Path) -> None:
    """Compile the libraries into a folder."""
    for prefix, module in (*MODULES.items(), ("cufft", CUFFT)):
        library, names = needed(origin(module), prefix)
        parameters = ", ".join(f"unsigned long a{index}" for index in range(WORDS))
        arguments = ", ".join(f"a{index}" for index in range(WORDS))
        code = LOG.format(words=WORDS)
        for name in names:
            code += FUNCTION.format(name=name, parameters=parameters, arguments=arguments, more=SIZES.get(name, ""))
        source = folder / f"{prefix}.c"
        source.write_text(code)
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
        subprocess.run(command, check=True, timeout=60)


def recorded(library: ctypes.CDLL) -> list[tuple[str, list[int], list[int]]]:
    """Return what a library wrote down since it was asked last: names, words, the bits of the numbers."""
    name, words, numbers = ctypes.c_char_p(), (ctypes.c_ulong * WORDS)(), (ctypes.c_uint64 * 2)()
    found = []
    while library.recorded(len(found), ctypes.byref(name), words, numbers):
        assert name.value is not None
        found.append((name.value.decode(), list(words), list(numbers)))
    return found


def arguments_for(signature: Any) -> list[Any]:
    """Return arguments for a function of which no two are alike."""
    made: list[Any] = []
    for position, argument in enumerate(signature.arguments):
        number = 1000 + 8 * position
        if argument.ctype in ("float", "double"):
            made.append(position + 0.1)
        elif argument.name == "n" and signature.name.startswith("generate"):
            made.append(number)
        else:
            made.append({"computeType": 68}.get(argument.name, number))
    return made


def native(calls: Any, names: dict[int, str]) -> list[Any]:
    return [(names[each.function], [word & 0xFFFFFFFFFFFFFFFF for word in each.words], each.doubles) for each in calls]


def show(function: str, made: list[Any], claimed: list[Any]) -> None:
    print(json.dumps({"function": function, "made": made, "claimed": claimed}))


def main() -> None:
    folder = Path(sys.argv[1])
    from migproxy_plugins.cupy import native_unsafe, roles, signatures, tables

    from migproxy.interpose import capsules

    runtime = importlib.import_module("cupy_backends.cuda.api.runtime")
    capsules.replace(
        runtime, {"streamIsCapturing": lambda *_: False, "getDeviceCount": lambda *_: 1, "getDevice": lambda *_: 0}
    )
    for short, name in MODULES.items():
        module = importlib.import_module(name)
        file = needed(origin(name), short)
        library = ctypes.CDLL(str(folder / file[0]))
        names = {native_unsafe.address(module.__file__, each): each for each in file[1]}
        for function, doc in tables.table(name)["functions"].items():
            signature = signatures.parse(doc)
            values = arguments_for(signature)
            if function in LOCAL or not roles.works_on_stream(short, signature):
                continue
            calls = native_unsafe.library_calls(short, module, signature, values, STREAM)
            recorded(library)
            getattr(module, function)(*values)
            show(f"{short}.{function}", recorded(library), native(calls, names))
    module = importlib.import_module(CUFFT)
    file = needed(origin(CUFFT), "cufft")
    library = ctypes.CDLL(str(folder / file[0]))
    names = {native_unsafe.address(module.__file__, each): each for each in file[1]}
    for kind in native_unsafe.TRANSFORMS:
        plan = module.Plan1d(8, kind, 1)
        calls = native_unsafe.plan_calls(module, plan, 1000, 2000, -1, STREAM)
        recorded(library)
        plan.fft(Array(1000), Array(2000), -1)
        show(f"cufft.{kind}", recorded(library), native(calls, names))

    serve(folder)


def serve(folder: Path) -> None:
    """Have the executor half carry out a call, and repeat it in machine code."""
    from cupy_loopback import Context
    from migproxy_plugins.cupy import executor

    from migproxy.executor.repeat_tables_unsafe import RepeatTables, compile_repeats

    name = MODULES["cublas"]
    library = ctypes.CDLL(str(folder / needed(origin(name), "cublas")[0]))
    context, alpha, beta = Context("gpu"), b"\0\0\x80?", b"\0\0\0@"
    server, tables = executor.Server(context), RepeatTables()
    server._charge_pool = lambda: None  # type: ignore[method-assign]  # it would ask the device
    server._stream_in_use = context.stream
    server.objects[0x5E0] = "cublas handle", 0x77
    arguments = [0x5E0, 0, 1, 2, 3, 4, alpha, 5, 6, 7, 8, beta, 9, 10]
    recorded(library)
    server.serve(context, name, "sgemm", arguments)
    made = recorded(library)
    repeat = server.prepare(context, name, "sgemm", arguments)
    assert repeat is not None
    assert tables.enter(b"payload", 0, 0, repeat, (name, "sgemm"), 0)
    payload = ctypes.create_string_buffer(b"payload")
    found = compile_repeats()["find"](tables.block, ctypes.addressof(payload), len(b"payload"), 0)
    assert compile_repeats()["repeat"](found) == 0
    again = recorded(library)
    for calls in (made, again):
        words = calls[-1][1]
        words[6], words[11] = (int.from_bytes(ctypes.string_at(words[each], 4), "little") for each in (6, 11))
    told = (2, len(arguments))  # the others are what the caller had in its registers
    show("server.sgemm", made, [(call[0], call[1][:count], []) for call, count in zip(again, told, strict=True)])


class Array:
    """What a plan looks at of an array."""

    def __init__(self, address: int) -> None:
        self.data, self.ptr = self, address


if __name__ == "__main__":
    main()
