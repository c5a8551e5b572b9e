"""The heap in machine code: ``arena.heap_unsafe`` compiled. No Python lock: the functions lock by themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from migproxy.arena import heap_unsafe as readable
from migproxy.jit import language


@cache
def addresses() -> dict[str, int]:
    """Return the addresses of the compiled heap functions by name."""
    return language.compile_functions(*readable.FUNCTIONS)


class Heap(readable.Heap):
    """As `migproxy.arena.heap_unsafe.Heap`, compiled: threads with and without the GIL can use it at the same time."""

    def _bind(self) -> dict[str, Callable[..., int]]:
        found = addresses()
        # holds_gil: the calls take less time than giving the GIL away and back
        return {f.__name__: language.bind(f, found[f.__name__], holds_gil=True) for f in readable.FUNCTIONS}

    def lock_functions(self) -> tuple[Callable[..., int], Callable[..., int]]:
        """Return what takes and gives back a lock of the heap's kind, at the start of a state block."""
        return self._functions["heap_lock"], self._functions["heap_unlock"]
