"""Capsule tables of the installed libraries: every type is known, replaced functions raise as their .pxd declares."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import types
from typing import Any

import pytest

from migproxy.interpose import capsules
from migproxy.jit.prototypes import UnsupportedPrototype, parse_prototype

MODULES = [
    "cuda.bindings.cydriver",
    "cuda.bindings.cyruntime",
    "cuda.bindings.cynvrtc",
    "cuda.bindings.cynvjitlink",
    "cuda.bindings.cynvml",
    "cupy_backends.cuda.api.driver",
    "cupy_backends.cuda.api.runtime",
    "cupy_backends.cuda.libs.nvrtc",
]
#: Functions that only build structs and stay real.
CONSTRUCTORS = {
    "cudaCreateChannelDesc",
    "make_cudaExtent",
    "make_cudaPitchedPtr",
    "make_cudaPos",
    "make_Extent",
    "make_PitchedPtr",
    "make_Pos",
    "getChannelDesc",
    "getTextureObjectResourceDesc",
    "getTextureObjectTextureDesc",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_every_function_of_the_installed_libraries_has_a_known_type_and_error_value(name: str) -> None:
    module = pytest.importorskip(name)
    texts = capsules.read(module)
    assert texts
    unsupported = set()
    for function, text in texts.items():
        if "(" not in text:
            continue  # a variable
        try:
            prototype = parse_prototype(text)
        except UnsupportedPrototype:
            unsupported.add(function)
            continue
        capsules.error_value(name, function, prototype)
    assert unsupported <= CONSTRUCTORS


@pytest.mark.parametrize("name", ["cydriver", "cyruntime", "cynvrtc", "cynvml"])
def test_error_values_are_those_of_the_installed_pxd(name: str) -> None:
    """The .pxd files name the values; here they are spelled out, so that a change is noticed."""
    bindings = pytest.importorskip("cuda.bindings")
    from pathlib import Path

    text = (Path(bindings.__path__[0]) / f"{name}.pxd").read_text()
    names = {
        "cydriver": ("except ?CUDA_ERROR_NOT_FOUND", "CUresult", 500),
        "cyruntime": ("except ?cudaErrorCallRequiresNewerDriver", "cudaError_t", 36),
        "cynvrtc": ("except ?NVRTC_ERROR_INVALID_INPUT", "nvrtcResult", 3),
        "cynvml": ("except?_NVMLRETURN_T_INTERNAL_LOADING_ERROR", "nvmlReturn_t", -42),
    }
    clause, result, value = names[name]
    functions = [line for line in text.splitlines() if line.startswith(f"cdef {result} ")]
    assert functions
    assert all(clause in line for line in functions)
    assert capsules.error_value(f"cuda.bindings.{name}", "f", parse_prototype(f"{result} (int)")) == value


def table(**entries: str) -> types.ModuleType:
    module = types.ModuleType("cupy_backends.cuda.api.runtime")
    module.__pyx_capi__ = {name: capsules.new_capsule(1, text) for name, text in entries.items()}  # type: ignore[attr-defined]
    return module


def call(module: types.ModuleType, name: str, result: Any, *arguments: tuple[Any, Any]) -> Any:
    kinds, values = zip(*arguments, strict=True) if arguments else ((), ())
    return ctypes.PYFUNCTYPE(result, *kinds)(capsules.pointer(module, name))(*values)


def test_replace_swaps_pointer_and_keeps_the_type() -> None:
    module = table(
        malloc="intptr_t (size_t, int __pyx_skip_dispatch)", free="PyObject *(intptr_t, int __pyx_skip_dispatch)"
    )
    capsules.replace(module, {"malloc": lambda size: size * 2, "free": 12345})
    assert capsules.read(module)["malloc"] == "intptr_t (size_t, int __pyx_skip_dispatch)"
    assert call(module, "malloc", ctypes.c_ssize_t, (ctypes.c_size_t, 21), (ctypes.c_int, 0)) == 42
    assert capsules.pointer(module, "free") == 12345


def test_replace_is_all_or_nothing() -> None:
    module = table(malloc="intptr_t (size_t, int __pyx_skip_dispatch)", make="cudaPos (size_t, size_t, size_t)")
    with pytest.raises(UnsupportedPrototype):
        capsules.replace(module, {"malloc": lambda size: size, "make": lambda *a: a})
    with pytest.raises(KeyError):
        capsules.replace(module, {"malloc": lambda size: size, "missing": lambda *a: a})
    assert capsules.pointer(module, "malloc") == 1


def test_optional_arguments_are_filled_in() -> None:
    optional = "struct __pyx_opt_args_13cupy_backends_4cuda_3api_7runtime_mallocManaged *__pyx_optional_args"
    module = table(mallocManaged=f"intptr_t (size_t, int __pyx_skip_dispatch, {optional})")
    seen: list[tuple[int, ...]] = []
    capsules.replace(module, {"mallocManaged": lambda size, flags: seen.append((size, flags)) or 1})
    given = (ctypes.c_int * 2)(1, 2)
    for pointer in (None, ctypes.addressof(given)):
        call(
            module,
            "mallocManaged",
            ctypes.c_ssize_t,
            (ctypes.c_size_t, 8),
            (ctypes.c_int, 0),
            (ctypes.c_void_p, pointer),
        )
    assert seen == [(8, 1), (8, 2)]


def test_unknown_modules_are_refused() -> None:
    with pytest.raises(KeyError, match=r"other\.module"):
        capsules.error_value("other.module", "f", parse_prototype("int (int)"))


def test_cupy_sees_handler_exceptions_at_every_kind_of_result() -> None:
    """Importing modules call through the replaced pointers; each exception comes out as itself, none is lost."""
    pytest.importorskip("cupy_backends.cuda.api.runtime")
    out = run("""
import warnings; warnings.simplefilter("ignore")
import cupy_backends.cuda.api.runtime as runtime, cupy_backends.cuda.api.driver as driver
from migproxy.interpose import capsules
def fail(name):
    def handler(*_):
        raise LookupError(name)
    return handler
texts = capsules.read(runtime)
names = [n for n, t in texts.items() if "(" in t and not t.startswith("cuda")]
capsules.replace(runtime, {n: fail(n) for n in names})
capsules.replace(driver, {n: fail(n) for n in capsules.read(driver)})
import cupy
for call in (
    lambda: cupy.cuda.Device(0).__enter__(),                      # int
    lambda: cupy.cuda.memory.Memory(16),                          # intptr_t
    lambda: cupy.cuda.Stream.null.use(),
    lambda: cupy.cuda.runtime is None or cupy.cuda.Device(0).synchronize(),
    lambda: cupy.cuda.get_current_stream().synchronize(),         # object
    lambda: cupy.cuda.function.Module().load(b"x"),
    lambda: cupy.zeros(3),
):
    try:
        call()
    except LookupError as error:
        print("lookup", error.args[0])
    except BaseException as error:
        print("other", repr(error))
    else:
        print("nothing")
""")
    lines = out.splitlines()
    assert all(line.startswith("lookup") or line == "nothing" for line in lines), out
    assert sum(line.startswith("lookup") for line in lines) >= 4, out


def test_cuda_bindings_sees_statuses_and_reported_exceptions() -> None:
    pytest.importorskip("cuda.bindings.cydriver")
    out = run("""
import ctypes
import cuda.bindings.cydriver as cydriver
from migproxy.interpose import capsules
from migproxy.jit import trampoline
trampoline.on_report(lambda name, error: print("reported", name, error))
def count(pointer):
    ctypes.c_int.from_address(pointer).value = 3
    return 0
def fail(*_):
    raise LookupError("provoked")
capsules.replace(cydriver, {"cuDeviceGetCount": count, "cuCtxSynchronize": fail, "cuInit": lambda flags: 100})
capsules.replace(cydriver, {"cuDriverGetVersion": fail}, propagate=True)
from cuda.bindings import driver
print(driver.cuDeviceGetCount())
print(int(driver.cuInit(0)[0]), int(driver.cuCtxSynchronize()[0]))
try:
    driver.cuDriverGetVersion()
except LookupError as error:
    print("raised", error)
""")
    assert out.splitlines() == [
        "(<CUresult.CUDA_SUCCESS: 0>, 3)",
        "reported cuda.bindings.cydriver.cuCtxSynchronize provoked",
        "100 999",
        "raised provoked",
    ]


def test_cuda_core_destructors_after_the_end_do_not_crash() -> None:
    """cuda.core's thread-local C++ objects destroy themselves through the capsules when Python is gone."""
    pytest.importorskip("cuda.core")
    out = run("""
import ctypes
import cuda.bindings.cydriver as cydriver
from migproxy.interpose import capsules
W = lambda kind, address, value: setattr(kind.from_address(address), "value", value) or 0
special = {
    "cuDeviceGetCount": lambda p: W(ctypes.c_int, p, 1),
    "cuDeviceGet": lambda p, i: W(ctypes.c_int, p, i),
    "cuDriverGetVersion": lambda p: W(ctypes.c_int, p, 13000),
    "cuDevicePrimaryCtxRetain": lambda p, d: W(ctypes.c_uint64, p, 0xC0DE0000),
    "cuCtxGetCurrent": lambda p: W(ctypes.c_uint64, p, 0xC0DE0000),
    "cuCtxGetDevice": lambda p: W(ctypes.c_int, p, 0),
    "cuStreamCreateWithPriority": lambda p, f, q: W(ctypes.c_uint64, p, 0x77),
    "cuEventCreate": lambda p, f: W(ctypes.c_uint64, p, 0x78),
    "cuDeviceGetAttribute": lambda p, a, d: W(ctypes.c_int, p, 9),
}
ordinary = {n: (lambda *a: 0) for n in capsules.read(cydriver)}
capsules.replace(cydriver, {**ordinary, **special})
try:
    import cuda.core as core
    device = core.Device(0)
    device.set_current()
    stream = device.create_stream()
    event = stream.record()
except Exception as error:
    print("failed", repr(error))
print("end")
""")
    assert out.splitlines()[-1] == "end"


def test_argument_types_that_others_set_on_pythons_api_do_no_harm() -> None:
    """They are set on function objects that all users of `ctypes.pythonapi` share."""
    code = (
        "import ctypes\n"
        "new = ctypes.pythonapi.PyCapsule_New\n"
        "new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]\n"
        "from migproxy.interpose import capsules\n"
        "assert new.argtypes[1] is ctypes.c_char_p\n"
        "ctypes.pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.c_int]\n"
        "memory = ctypes.create_string_buffer(8)\n"
        "made = capsules._new(ctypes.addressof(memory), None, None)\n"
        "assert capsules._get_pointer(made, None) == ctypes.addressof(memory)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
