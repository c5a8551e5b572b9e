"""Handles: the integers that stand for contexts, plans, descriptors and generators of the math libraries."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Handles of all libraries come from one counter, so that a handle of one library is never valid in another. They start
# high enough never to look like a small enumeration value, and are spaced like the pointers that CUDA hands out.
_numbers = itertools.count(0x5F00_0000_0000, 0x10)


class Handles(Generic[T]):
    """A table of live objects by handle.

    Parameters
    ----------
    bad : callable
        ``bad(handle)`` returns the library's error for a handle that does not exist.
    """

    def __init__(self, bad: Callable[[int], Exception]) -> None:
        self._bad = bad
        self._objects: dict[int, T] = {}
        self._lock = threading.Lock()

    def add(self, value: T) -> int:
        """Store an object and return its new handle."""
        with self._lock:
            handle = next(_numbers)
            self._objects[handle] = value
        return handle

    def __getitem__(self, handle: int) -> T:
        try:
            return self._objects[handle]
        except KeyError:
            raise self._bad(handle) from None

    def pop(self, handle: int) -> T:
        """Remove an object; its handle is never used again."""
        with self._lock:
            try:
                return self._objects.pop(handle)
            except KeyError:
                raise self._bad(handle) from None

    def __len__(self) -> int:
        return len(self._objects)


@dataclass
class Context:
    """What a library context remembers: the setters and getters of cuBLAS, cuSOLVER and cuSPARSE share it."""

    stream: int = 0
    pointer_mode: int = 0
    math_mode: int = 0


def typed(namespace: dict[str, Any], function: Callable[..., Any], names: dict[str, Any]) -> None:
    """Publish ``function(dtype, …)`` under one name per dtype.

    Parameters
    ----------
    namespace : dict
        The module's ``globals()``.
    function : callable
        Takes what ``names`` maps to as its first argument.
    names : dict
        Public name to first argument, e.g. ``{"sgemm": np.float32, …}``.
    """
    from functools import partial

    for name, first in names.items():
        namespace[name] = partial(function, first)
