"""The table of library calls that the pump can carry out again by itself; see ``executor/repeats.py``.

One thread owns it: the one that runs the pump. Preconditions: the addresses in a `NativeCall` are of C functions that
take such arguments, and what their pointers point to lives as long as the `Repeat` that has them.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from migproxy.abi import layout
from migproxy.executor import repeats

MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class NativeCall:
    """A call of a C function, all its arguments known.

    Attributes
    ----------
    function : int
        Its address.
    words : tuple of int
        Its integer and pointer arguments in order; negative ones as they are.
    doubles : tuple of int
        The bits of its first floating-point arguments: of a double, or of a float in the lower half.
    status : bool
        It returns a 32-bit status, 0 for success. False: what it returns means nothing.
    """

    function: int
    words: tuple[int, ...]
    doubles: tuple[int, ...] = ()
    status: bool = True

    @property
    def fits(self) -> bool:
        """Whether the pump can call it."""
        return len(self.words) <= repeats.MOST_WORDS and len(self.doubles) <= 2


@dataclass(frozen=True, slots=True)
class Repeat:
    """What carries out a library call again, as a plugin's ``prepare`` returns it.

    Attributes
    ----------
    run : callable
        Does so in Python; raises the library's errors.
    native : tuple of NativeCall
        The C functions that `run` comes down to, in order; each is called if those before it succeeded. Empty if only
        `run` will do.
    kept : object
        What the pointers in `native` point to.
    """

    run: Callable[[], Any]
    native: tuple[NativeCall, ...] = ()
    kept: object = field(default=None, repr=False)

    def __call__(self) -> Any:
        return self.run()


def call_name(library: str, function: str) -> str:
    """Return what estimates and the trace call a library's function."""
    return f"{library.rpartition('.')[2]}.{function}"


@cache
def compile_repeats() -> dict[str, Callable[..., int]]:
    """Return the functions of ``executor/repeats.py`` as machine code."""
    from migproxy.jit import language

    addresses = language.compile_functions(*repeats.FUNCTIONS_COMPILED)
    return {
        function.__name__: language.bind(function, addresses[function.__name__])
        for function in repeats.FUNCTIONS_COMPILED
    }


class RepeatTables:
    """The calls of one session."""

    def __init__(self) -> None:
        self._hash_of = compile_repeats()["hash_of"]
        self._places = (ctypes.c_uint64 * repeats.PLACES)()
        self._records: dict[int, tuple[Any, Repeat, tuple[str, str]]] = {}

    @property
    def block(self) -> int:
        """The table's address."""
        return ctypes.addressof(self._places)

    def __len__(self) -> int:
        return len(self._records)

    def enter(
        self, payload: bytes, stream: int, real_stream: int, repeat: Repeat, called: tuple[str, str], estimates: int
    ) -> bool:
        """Enter a call. The caller has just carried it out, so it is not in the table yet.

        Parameters
        ----------
        payload : bytes
        stream, real_stream : int
            As the command says it, and what that is.
        repeat : Repeat
        called : tuple of str
            Library and function.
        estimates : int
            Address of the estimates of its work; 0 where work is not marked.

        Returns
        -------
        bool
            False when the call is none for the pump, or the table is full.
        """
        native = repeat.native
        if not 0 < len(native) <= repeats.MOST_CALLS or not all(call.fits for call in native):
            return False
        if len(payload) > layout.INLINE_PAYLOAD or len(self._records) >= repeats.MOST_RECORDS:
            return False
        record = ctypes.create_string_buffer(repeats.RECORD_SIZE + 8)
        address = (ctypes.addressof(record) + 7) & ~7
        ctypes.memmove(address + repeats.PAYLOAD, payload, len(payload))
        wanted = self._hash_of(address + repeats.PAYLOAD, len(payload), stream)
        for offset, value in (
            (repeats.HASH, wanted),
            (repeats.LENGTH, len(payload)),
            (repeats.STREAM, stream),
            (repeats.REAL_STREAM, real_stream),
            (repeats.ESTIMATES, estimates),
            (repeats.CALLS, len(native)),
        ):
            _store(address + offset, value)
        for index, call in enumerate(native):
            _store_call(address + repeats.FIRST_CALL + index * repeats.CALL_SIZE, call)
        place = wanted % repeats.PLACES
        while self._places[place]:
            place = (place + 1) % repeats.PLACES
        self._places[place] = address
        self._records[address] = record, repeat, called
        return True

    def forget(self) -> Counter[tuple[str, str]]:
        """Empty the table; returns how often its calls were repeated, by library and function."""
        counts = self.counts()
        if self._records:
            self._records.clear()
            ctypes.memset(self.block, 0, ctypes.sizeof(self._places))
        return counts

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how often the calls in the table were repeated, by library and function; from any thread."""
        found: Counter[tuple[str, str]] = Counter()
        for address, (_, _, called) in list(self._records.items()):
            found[called] += ctypes.c_uint64.from_address(address + repeats.COUNT).value
        return found


def _store(address: int, value: int) -> None:
    ctypes.c_uint64.from_address(address).value = value & MASK


def _store_call(address: int, call: NativeCall) -> None:
    _store(address + repeats.CALL_FUNCTION, call.function)
    _store(address + repeats.CALL_STATUS, int(call.status))
    for index, bits in enumerate(call.doubles):
        _store(address + repeats.CALL_DOUBLES + 8 * index, bits)
    for index, word in enumerate(call.words):
        _store(address + repeats.CALL_WORDS + 8 * index, word)
