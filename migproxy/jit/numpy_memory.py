"""Install the arena as NumPy's data allocator.

NumPy's default handler is changed in place: it serves all threads and contexts, and arrays made before keep working,
since every array frees its data through the handler's current functions. ``MIGPROXY_NUMPY_ARENA=0`` turns it off.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from types import ModuleType

from migproxy.arena import numpy_memory_unsafe as cells
from migproxy.arena.heap_unsafe import Heap
from migproxy.jit import compiler, language, trampoline

ENABLED = os.environ.get("MIGPROXY_NUMPY_ARENA") != "0"
#: Smaller arrays stay in NumPy's own memory: copies of them are staged anyway, for less than a round trip costs.
THRESHOLD = 4096
#: The same after `take_small`.
SMALL = 1
#: Smaller requests never make the arena grow.
GROW_FROM = 64 << 10
_OFF = 1 << 63
_DEFAULT_HANDLER = 306  # index of PyDataMem_DefaultHandler in NumPy's API table, the same in 1.22 to 2.x
_VERSION, _FUNCTIONS = (
    127,
    136,
)  # offsets in PyDataMem_Handler: version; malloc, calloc, realloc, free behind the context

_lock = threading.Lock()
_installed = False
_threshold = THRESHOLD
_grower: Callable[[int], bool] | None = None
_growing = threading.local()


def _cell(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(int(address))


def _handler(numpy: ModuleType) -> int:
    """Return the address of NumPy's default ``PyDataMem_Handler``; 0 if this NumPy has another one than we know."""
    core = getattr(numpy, "_core", None) or numpy.core
    # Not `ctypes.pythonapi`: the types set on its functions are everybody's.
    get_pointer = ctypes.PyDLL(None).PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get_pointer(core._multiarray_umath._ARRAY_API, None)
    capsule = ctypes.py_object.from_address(_cell(table + 8 * _DEFAULT_HANDLER).value).value
    address = int(get_pointer(capsule, b"mem_handler") or 0)
    known = (
        ctypes.string_at(address) == b"default_allocator" and ctypes.c_uint8.from_address(address + _VERSION).value == 1
    )
    return address if known else 0


@cache
def _compiled() -> dict[str, int]:
    compiler.use_cache()
    return language.compile_functions(*cells.FUNCTIONS, cells.owned_by_arena)


def install(numpy: ModuleType) -> bool:
    """Replace the functions of NumPy's default allocator; returns whether they are replaced.

    Nothing goes to the arena before `use_heap`.
    """
    global _installed
    with _lock:
        if _installed or not ENABLED:
            return _installed
        address = _handler(numpy)
        if not address:
            return False
        compiled = _compiled()
        fields = [_cell(address + _FUNCTIONS + 8 * index) for index in range(4)]
        _cell(cells.THRESHOLD).value = _OFF
        _cell(cells.GROW_FROM).value = GROW_FROM
        for cell, field in zip((cells.MALLOC, cells.CALLOC, cells.REALLOC, cells.FREE), fields, strict=True):
            _cell(cell).value = field.value
        # The freeing side first: no block of ours may meet NumPy's own functions.
        for function, field in zip(reversed(cells.FUNCTIONS), reversed(fields), strict=True):
            field.value = compiled[function.__name__]
        _cell(cells.THRESHOLD).value = _threshold
        _installed = True
        return True


def take_small() -> None:
    """Take arrays of any size from the arena from now on, so that kernels can reach them once they are registered.

    An array is 20 ns slower to make then, and takes 64 bytes at least.
    """
    global _threshold
    with _lock:
        _threshold = SMALL
        if _installed:
            _cell(cells.THRESHOLD).value = SMALL


def use_heap(heap: Heap | None) -> None:
    """Take new blocks from `heap`, or from nowhere. Blocks of earlier heaps are still freed where they belong."""
    with _lock:
        if heap is not None:
            count = _cell(cells.HEAP_COUNT).value
            known = {_cell(cells.HEAPS + 8 * index).value for index in range(count)}
            if heap.state not in known:
                if count == cells.MAX_HEAPS:
                    return  # so many sessions in one process: arrays stay in NumPy's own memory
                _cell(cells.HEAPS + 8 * count).value = heap.state
                _cell(cells.HEAP_COUNT).value = count + 1
        _cell(cells.CURRENT).value = 0 if heap is None else heap.state


def on_full(grower: Callable[[int], bool] | None) -> None:
    """Set what is asked for more room, with the bytes of the request; it answers whether there is some now.

    It runs inside NumPy's allocation, on any thread; for requests that its own code makes it is not asked again.
    """
    global _grower
    _grower = grower
    if grower is not None and not _cell(cells.GROW).value:
        _cell(cells.GROW).value = trampoline.make_trampoline(
            "unsigned int (size_t)", _ask, holds_gil=False, on_error=0, propagate=False, name="numpy arena growth"
        )


def _ask(size: int) -> int:
    if _grower is None or getattr(_growing, "busy", False):
        return 0
    _growing.busy = True
    try:
        return int(_grower(size))
    finally:
        _growing.busy = False


def owned(address: int) -> bool:
    """Tell whether NumPy data at `address` lies in an arena."""
    return bool(_installed and language.bind(cells.owned_by_arena, _compiled()["owned_by_arena"])(address))


def statistics() -> dict[str, int]:
    """Return how many blocks came from the arena, and how many requests found no room there."""
    return {"allocated": _cell(cells.ALLOCATED).value, "passed_on": _cell(cells.PASSED_ON).value}
