"""Hostile arguments for an executor half: each argument of each operation gets what no function half would send.

The half runs in this process, on a software GPU of its own, and is called as the plugin host calls it. Whatever comes,
the answer must be a result or one of the four refusals that the executor knows; anything else is a defect of the half,
and so is a crash, which the parent process sees.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec

from migproxy.abi.tables import HOST_KINDS, INTEGER_TYPES, RETURNED_KINDS, Argument, Kind, Operation, Table
from migproxy.errors import CudaError, MigproxyError, ProtocolError
from migproxy.executor.dispatch import LibraryError, Refused
from migproxy.executor.driver import SoftwareDriver
from migproxy.executor.handles import Handles
from migproxy.interpose.plugin import Plugin, load_tables
from migproxy.plugin_kit.samples import Samples, host_bytes, makers, plain_sample

#: Operations up to which every argument gets every hostile value; beyond, this many, so that all come up somewhere.
SMALL_TABLE = 40
FEW = 1
FUZZ_BYTES = 1 << 16
ANSWERS = (ProtocolError, CudaError, LibraryError, Refused, msgspec.MsgspecError)
_ANYTHING: tuple[Any, ...] = (None, True, 1.5, "x", b"\0" * 3, [], [None], {}, {"__array__": []})
_WIDE = (0, 1, -1, 2**31, -(2**63), 2**63 - 1, 2**63, 2**64 - 1)
_ARRAYS: tuple[Any, ...] = (
    {"__array__": [0, [1], [4], "<f4"]},
    {"__array__": [2**63, [4], [4], "<f4"]},
    {"__array__": [1 << 40, [2**62, 2**62], [2**62, 2**62], "<f8"]},
    {"__array__": [1 << 40, [4], [-(2**62)], "<f8"]},
    {"__array__": [1 << 40, [-1], [4], "<f4"]},
    {"__array__": [1 << 40, [1], [4], "|O8"]},
    {"__array__": ["x", [1], [4], "<f4"]},
    {"__array__": [1 << 40, [1], [4], 7]},
)
HOSTILE: dict[Kind, tuple[Any, ...]] = {
    Kind.NUMBER: (math.nan, math.inf, -0.0, 2**63, *_ANYTHING),
    Kind.COMPLEX: ([1.0], [math.nan, "x"], 3, *_ANYTHING),
    Kind.TEXT: ("", "a\0b", "x" * ((1 << 20) + 1), 7, *_ANYTHING),
    Kind.HANDLE: (*_WIDE, 0x5D00_0000_0000, *_ANYTHING),
    Kind.DEVICE: (*_WIDE, 0xDEAD_0000, *_ANYTHING),
    Kind.READ: (b"", b"x" * 5, 2**62, *_ANYTHING),
    Kind.UPDATE: (b"", b"x" * 5, 2**62, *_ANYTHING),
    Kind.WRITE: (-1, 0, 2**62, *_ANYTHING),
    Kind.SCRATCH: (-1, 0, 2**62, *_ANYTHING),
    Kind.STRUCT: ([1] * 99, *_ANYTHING),
    Kind.STREAM: _ANYTHING,
    Kind.ARRAY: (*_ARRAYS, *_ANYTHING),
    Kind.VALUE: (*_WIDE, *_ARRAYS, *_ANYTHING),
}


class _Memory:
    """The session's memory: one allocation of the software GPU."""

    def __init__(self, driver: SoftwareDriver) -> None:
        self.address = driver.out("cuMemAlloc", FUZZ_BYTES)

    def check_range(self, address: int, size: int) -> None:
        if not (self.address <= address and size >= 0 and address + size <= self.address + FUZZ_BYTES):
            raise CudaError(1, f"{size} bytes at {address:#x} are not the session's")

    def charge_other(self, size: int) -> None:
        """A library took memory: nobody counts here."""


class FuzzContext:
    """What an executor half gets of its session; see `migproxy.executor.plugin_host.LibraryContext`."""

    LibraryError = LibraryError
    Refused = Refused
    CudaError = CudaError
    kind = "software"
    stream = 0

    def __init__(self) -> None:
        self.driver = SoftwareDriver()
        self.driver.call("cuInit", 0)
        self.driver.call("cuCtxSetCurrent", self.driver.out("cuDevicePrimaryCtxRetain", 0))
        self.handles = Handles()
        self.memory = _Memory(self.driver)
        self.state = SimpleNamespace(
            driver=self.driver,
            handles=self.handles,
            memory=self.memory,
            charged=contextlib.nullcontext,
            consumer=SimpleNamespace(in_heap=lambda address, size: False),
        )

    def check_range(self, address: int, size: int) -> None:
        """Raise CudaError(1) unless the range is the session's."""
        self.memory.check_range(address, size)

    def charge(self, size: int) -> None:
        """A library took memory: nobody counts here."""

    def synchronize(self) -> None:
        """Everything here is done at once."""

    def capturing(self) -> bool:
        """Nothing is captured."""
        return False


def _shown(value: Any) -> str:
    return f"{value[:8]!r}…" if isinstance(value, str) and len(value) > 40 else f"{value!r:.60}"


class Fuzzer:
    """Sends hostile arguments to one plugin's executor half.

    Parameters
    ----------
    plugin : Plugin
    """

    def __init__(self, plugin: Plugin) -> None:
        module = importlib.import_module(plugin.executor)
        self.half = getattr(module, "HALF", module)
        self.samples = Samples(plugin)
        self.context = FuzzContext()
        self.tables = [table for table in load_tables(plugin) if table.library in self.half.LIBRARIES]
        self.answers: Counter[str] = Counter()
        self.defects: list[str] = []
        self._next = 0
        self._numbers = iter(range(0x6000_0000_0000, 0x7000_0000_0000, 16))

    def run(self) -> dict[str, Any]:
        """Return how many calls got which kind of answer, and the defects."""
        for table in self.tables:
            self._send(table, "no_such_operation", [], "an unknown name")
            for operation in table.operations.values():
                if operation.served in ("by the library", "by hand"):
                    self._operation(table, operation)
        return {"calls": sum(self.answers.values()), "answers": dict(self.answers), "defects": self.defects}

    def _operation(self, table: Table, operation: Operation) -> None:
        for values, what in self._cases(table, operation):
            sent = self.samples.travels(table, operation, values)
            if operation.makes:
                sent = [next(self._numbers), *sent]
            self._send(table, operation.name, sent, what)

    def _cases(self, table: Table, operation: Operation) -> Iterator[tuple[list[Any], str]]:
        yield self._fitting(table, operation), "arguments that fit"
        yield [], "no arguments"
        yield [*self._fitting(table, operation), 0], "an argument too many"
        for position, argument in enumerate(operation.arguments):
            for value in self._drawn(self._hostile(argument), len(table.operations)):
                values = self._fitting(table, operation)
                values[position] = value
                yield values, f"{argument.name} = {_shown(value)}"

    def _drawn(self, values: tuple[Any, ...], operations: int) -> Iterator[Any]:
        """Yield all values for a small table; for a large one a few, other ones for each argument in turn."""
        count = len(values) if operations <= SMALL_TABLE else FEW
        for _ in range(count):
            yield values[self._next % len(values)]
            self._next += 1

    def _hostile(self, argument: Argument) -> tuple[Any, ...]:
        if argument.kind is not Kind.INTEGER:
            return HOSTILE[argument.kind]
        size, signed = INTEGER_TYPES[argument.type]
        high = (1 << (8 * size - signed)) - 1
        low = -high - 1 if signed else 0
        beyond = tuple(value for value in (low - 1, high + 1, -(2**63), 2**64 - 1) if -(2**63) <= value < 2**64)
        huge = (low, high, high // 4) if self.samples.huge_integers else ()
        return (0, -1, *huge, *(value for value in beyond if not low <= value <= high), *_ANYTHING)

    def _fitting(self, table: Table, operation: Operation) -> list[Any]:
        return [self._fits(table, operation, argument) for argument in operation.arguments]

    def _fits(self, table: Table, operation: Operation, argument: Argument) -> Any:
        kind = argument.kind
        if kind is Kind.HANDLE:
            return self._handle(table, argument)
        if kind is Kind.DEVICE:
            return self.context.memory.address
        if kind in HOST_KINDS:
            try:
                size = host_bytes(operation, argument)
            except ValueError:
                return None
            returned_only = kind is Kind.SCRATCH or (kind in RETURNED_KINDS and kind is not Kind.UPDATE)
            return size if returned_only else bytes(size)
        if kind is Kind.STRUCT:
            return [self._fits(table, operation, each) for each in argument.fields]
        if kind is Kind.ARRAY:
            return {"__array__": [self.context.memory.address, [4], [4], "<f4"]}
        value = plain_sample(argument)
        return [value.real, value.imag] if isinstance(value, complex) else value

    def _handle(self, table: Table, argument: Argument) -> int:
        """Return a fresh handle of the half's own making, 0 where it makes none of the kind."""
        maker = makers(table).get(argument.of)
        if maker is None or any(each.kind is Kind.HANDLE and each.of == argument.of for each in maker.arguments):
            return 0
        number = next(self._numbers)
        sent = [number, *self.samples.travels(table, maker, self._fitting(table, maker))]
        try:
            self.half.serve(self.context, table.library, maker.name, sent)
        except ANSWERS:
            return 0
        return number

    @staticmethod
    def _tell(where: str) -> None:
        """Say what comes now: the last line tells the parent where a crash was."""
        os.write(2, where.encode(errors="replace")[:200] + b"\n")

    def _send(self, table: Table, name: str, sent: list[Any], what: str) -> None:
        where = f"{table.library}.{name}, {what}"
        self._tell(where)
        # What one call left there must not be the next one's row numbers.
        self.context.driver.call("cuMemsetD8", self.context.memory.address, 0, FUZZ_BYTES)
        try:
            self.half.serve(self.context, table.library, name, sent)
        except ANSWERS as error:
            self.answers[type(error).__name__] += 1
        except (MemoryError, MigproxyError) as error:
            self.answers[type(error).__name__] += 1
        except Exception as error:
            self.answers["defect"] += 1
            self.defects.append(f"{where}: {type(error).__name__}: {error}"[:300])
        else:
            self.answers["result"] += 1
