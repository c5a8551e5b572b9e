"""Capsule tables: the C functions that compiled modules import from each other.

A Cython module keeps its C functions in a dict, ``__pyx_capi__``: capsules whose name is the function's C type.
Modules that import from it copy the pointers out when they are imported. So `replace` must run right after the
exporting module ran, and before anyone imported from it.

What a function returns when it raises is declared in the library's .pxd files, and differs: `error_value` holds what
they say. A value that is wrong would lose the exception, or raise SystemError where none was raised.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from migproxy.jit import compiler, fast_path, language, trampoline
from migproxy.jit import entries as machine_code
from migproxy.jit.prototypes import Kind, Prototype, parse_prototype

compiler.use_cache()
# Functions of our own: those of `ctypes.pythonapi` are everybody's, and so are the argument types one sets on them.
_api = ctypes.PyDLL(None)
_get_name = _api.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_get_pointer = _api.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_new = _api.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]

#: Capsules hold bare pointers to their names, and modules that imported from a table keep its functions.
_kept: list[Any] = []

Handler = Callable[..., Any]
OnError = Callable[[str, Prototype], "float | None"]


@dataclass(frozen=True, slots=True)
class Convention:
    """How the functions of a module's table are called.

    Attributes
    ----------
    holds_gil : bool
        Callers hold the GIL.
    by_type : dict
        Result type → value that says that an exception is set.
    by_name : dict
        Functions that differ.
    unreported : int
        What a function returns after an exception that was reported and cleared, its callers being C or C++.
    """

    holds_gil: bool
    by_type: Mapping[str, float]
    by_name: Mapping[str, float]
    unreported: int = 0


_CUPY = Convention(
    holds_gil=True,
    # cupy_backends/**/*.pxd: "except? 0" on handles and addresses; what says nothing has Cython's own default, -1.
    by_type={
        "intptr_t": 0,
        "uintmax_t": 0,
        "size_t": -1,
        "int": -1,
        "unsigned int": -1,
        "int64_t": -1,
        "uint64_t": -1,
        "uint32_t": -1,
        "float": -1.0,
        "double": -1.0,
    },
    by_name={
        "eventElapsedTime": 0.0,
        "streamGetFlags": 0,
        "streamGetPriority": 0,
        "funcGetAttribute": -2,
        "getStream": 0,
    },
)
CONVENTIONS: dict[str, Convention] = {
    "cupy": _CUPY,
    "cupy_backends": _CUPY,
    "cupyx": _CUPY,
    # CUDA_ERROR_NOT_FOUND, cudaErrorCallRequiresNewerDriver, NVRTC_ERROR_INVALID_INPUT, and the bindings' own loading
    # errors
    "cuda.bindings.cydriver": Convention(False, {"CUresult": 500}, {}, unreported=999),
    "cuda.bindings.cyruntime": Convention(False, {"cudaError_t": 36, "char *": 0}, {}, unreported=999),
    "cuda.bindings.cynvrtc": Convention(False, {"nvrtcResult": 3, "char *": 0}, {}, unreported=11),
    "cuda.bindings.cynvjitlink": Convention(False, {"nvJitLinkResult": -42}, {}, unreported=6),
    "cuda.bindings.cynvvm": Convention(False, {"nvvmResult": -42, "char *": 0}, {}, unreported=9),
    "cuda.bindings.cynvml": Convention(False, {"nvmlReturn_t": -42, "char *": 0}, {}, unreported=999),
}

#: Fields and defaults of Cython's structs of optional arguments, which capsules do not describe.
OPTIONAL_ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "mallocManaged": (("unsigned int",), (1,)),  # memAttachGlobal
    "mallocArray": (("unsigned int",), (0,)),
    "malloc3DArray": (("unsigned int",), (0,)),
    "streamAddCallback": (("unsigned int",), (0,)),
    "streamWaitEvent": (("unsigned int",), (0,)),
    "streamBeginCapture": (("int",), (2,)),  # streamCaptureModeRelaxed
}


def convention(module: str) -> Convention:
    """Return how the table of `module` (a full name) is called; KeyError if that is not known."""
    name = module
    while name not in CONVENTIONS:
        name, dot, _ = name.rpartition(".")
        if not dot:
            raise KeyError(f"the calling convention of {module}'s capsules is not known")
    return CONVENTIONS[name]


def error_value(module: str, name: str, prototype: Prototype) -> float | None:
    """Return the value that a function of `module`'s table returns with an exception set, as its .pxd declares.

    Returns
    -------
    int, float or None
        None for objects (NULL) and ``void``.

    Raises
    ------
    KeyError
        No value is known for this type.
    """
    if prototype.result in (Kind.OBJECT, Kind.VOID):
        return None
    known = convention(module)
    if name in known.by_name:
        return known.by_name[name]
    return known.by_type[prototype.result_text]


def read(module: ModuleType) -> dict[str, str]:
    """Return the C type of every entry of a module's table."""
    return {name: (_get_name(capsule) or b"").decode() for name, capsule in module.__pyx_capi__.items()}


def pointer(module: ModuleType, name: str) -> int:
    """Return the address that an entry of a module's table holds."""
    capsule = module.__pyx_capi__[name]
    address = _get_pointer(capsule, _get_name(capsule))
    assert address is not None
    return int(address)


def new_capsule(address: int, text: str) -> object:
    """Return a capsule for `address` whose name, the C type `text`, lives for ever."""
    name = ctypes.create_string_buffer(text.encode())
    _kept.append(name)
    capsule: object = _new(address, ctypes.addressof(name), None)
    return capsule


def _fill_in(handler: Handler, required: int, defaults: tuple[int, ...]) -> Handler:
    """Return a handler that is always called with all arguments."""

    def call(*arguments: Any) -> Any:
        return handler(*arguments, *defaults[len(arguments) - required :])

    call.__name__ = getattr(handler, "__name__", "handler")
    return call


def entry(
    module: str,
    name: str,
    text: str,
    handler: Handler | int,
    *,
    holds_gil: bool | None = None,
    on_error: OnError | None = None,
    propagate: bool | None = None,
) -> object:
    """Return a capsule of C type `text` that calls `handler`, or holds an address. For the parameters see `replace`.

    Raises
    ------
    UnsupportedPrototype
        No trampoline can be made for this type; the message names what is in the way.
    """
    if isinstance(handler, int):
        return new_capsule(handler, text)
    prototype = parse_prototype(text)
    with_gil = convention(module).holds_gil if holds_gil is None else holds_gil
    passes_on = with_gil if propagate is None else propagate
    if on_error is not None:
        value = on_error(name, prototype)
    elif passes_on or prototype.result is Kind.U64:
        value = error_value(module, name, prototype)
    else:
        value = convention(module).unreported
    fields: tuple[str, ...] = ()
    if any(parameter.kind is Kind.OPTIONAL for parameter in prototype.parameters):
        fields, defaults = OPTIONAL_ARGUMENTS.get(name, ((), ()))
        handler = _fill_in(handler, len(prototype.parameters) - 1, defaults)
    address = trampoline.make_trampoline(
        prototype,
        handler,
        holds_gil=with_gil,
        on_error=value,
        propagate=passes_on,
        optional=fields,
        name=f"{module}.{name}",
    )
    return new_capsule(address, text)


def replace(
    module: ModuleType,
    entries: Mapping[str, Handler | int],
    *,
    holds_gil: bool | None = None,
    on_error: OnError | None = None,
    propagate: bool | None = None,
) -> None:
    """Replace entries of a module's table; all or none.

    Parameters
    ----------
    module : ModuleType
        It has just executed, and nobody has imported from it.
    entries : mapping
        Name → Python handler, called with all arguments in order (optional ones filled in), or address of a C
        function of the same type.
    holds_gil : bool, optional
        Whether callers hold the GIL; the default is what is known of the module.
    on_error : callable, optional
        Called with name and prototype for the value to return when the handler raised; the default is `error_value`,
        or a plain 'unknown error' status if exceptions do not propagate.
    propagate : bool, optional
        Return with the exception set; the default is `holds_gil`. See ``migproxy.jit.trampoline``.

    Raises
    ------
    KeyError
        The table has no entry of this name, or nothing is known of its error value.
    UnsupportedPrototype
        No trampoline can be made for an entry.
    """
    table = module.__pyx_capi__
    texts = {name: (_get_name(table[name]) or b"").decode() for name in entries}
    made = {
        name: entry(
            module.__name__, name, texts[name], handler, holds_gil=holds_gil, on_error=on_error, propagate=propagate
        )
        for name, handler in entries.items()
    }
    # Who has imported already keeps the old pointers, and what they point to must live on.
    _kept.extend(table[name] for name in made)
    table.update(made)


def make(entries: Mapping[str, tuple[str, Handler | int]], module: str = "cupy_backends") -> dict[str, object]:
    """Return a new table: name → (C type, handler or address), with the conventions of `module`."""
    return {name: entry(module, name, text, handler) for name, (text, handler) in entries.items()}


def accelerate(
    module: ModuleType,
    finisher: Callable[[int], Any] = fast_path.finish,
    query: Callable[[int], int] | None = None,
) -> list[str]:
    """Put machine code into a module's capsules, in front of the handlers that `replace` has put there.

    Parameters
    ----------
    module : ModuleType
        Whose capsules have been replaced, and nobody has imported from it.
    finisher : callable
        ``fast_path.finish`` with exceptions turned into what the module's functions do: raise their own error, or
        return a status.
    query : callable, optional
        The same for queries that return their status as an object.

    Returns
    -------
    list of str
        The functions that are served by machine code now. A function whose type is not the expected one stays as it is.
    """
    if not fast_path.ENABLED:
        return []
    types = read(module)
    wanted = {
        entry.__name__: (index, text)
        for index, (name, text, entry) in enumerate(machine_code.ENTRIES)
        if name == module.__name__
        and types.get(entry.__name__) == text
        and (query is not None or entry is not machine_code.eventQuery)
    }
    if not wanted:
        return []
    holds_gil = convention(module.__name__).holds_gil
    finish_cell, prototype = (
        (machine_code.FINISH_OBJECT, "PyObject *(unsigned long)")
        if holds_gil
        else (machine_code.FINISH_STATUS, "CUresult (unsigned long)")
    )
    if not fast_path.cell(finish_cell).value:
        fast_path.cell(finish_cell).value = trampoline.make_trampoline(
            prototype, finisher, holds_gil=holds_gil, on_error=None if holds_gil else 999
        )
    if query is not None and not fast_path.cell(machine_code.FINISH_QUERY).value:
        fast_path.cell(machine_code.FINISH_QUERY).value = trampoline.make_trampoline(
            "PyObject *(unsigned long)", query, holds_gil=True, on_error=None
        )
    compiled = language.compile_functions(*(machine_code.ENTRIES[index][2] for index, _ in wanted.values()))
    for name, (index, _) in wanted.items():
        fast_path.cell(machine_code.FALLBACKS + 8 * index).value = pointer(module, name)
    replace(module, {name: compiled[name] for name in wanted})
    return sorted(wanted)
