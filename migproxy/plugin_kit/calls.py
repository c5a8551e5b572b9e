"""Calls of a plugin's operations from a function: round trips counted, objects made and ended, threads, forks.

Runs in a function's process, interposed, with a session of its own.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from migproxy.abi.tables import HOST_KINDS, Argument, Kind, Operation, Table
from migproxy.errors import CudaError, MigproxyError
from migproxy.interpose.plugin import Plugin, load_tables
from migproxy.plugin_kit.samples import SAMPLE_BYTES, Samples, enders, host_bytes, makers, plain_sample
from migproxy.session import api, late
from migproxy.session.session import Session

#: Exceptions that say that an argument was not right; everything else must be the library's own.
_ORDINARY = (ValueError, TypeError, OverflowError, NotImplementedError, RuntimeError)
THREADS = 4
ROUNDS = 5


@contextmanager
def round_trips() -> Iterator[Counter[str]]:
    """Count how often this process waits for a reply inside the ``with`` block, under the key ``"waits"``."""
    counter: Counter[str] = Counter()
    finish = Session.finish

    def counting(self: Session, number: int, timeout: float | None = None, *, looked: bool = False) -> bytes:
        counter["waits"] += 1
        return finish(self, number, timeout, looked=looked)

    Session.finish = counting  # type: ignore[method-assign]
    try:
        yield counter
    finally:
        Session.finish = finish  # type: ignore[method-assign]


class Caller:
    """Calls one plugin's operations with arguments that fit.

    Parameters
    ----------
    plugin : Plugin
    """

    def __init__(self, plugin: Plugin) -> None:
        self.samples = Samples(plugin)
        self.tables = load_tables(plugin)
        self.memory = api.mem_alloc(SAMPLE_BYTES)
        api.memset(self.memory, 0, 1, SAMPLE_BYTES)
        self._host: dict[int, Any] = {}
        self._handles: dict[tuple[str, str], Any] = {}

    # -- arguments ---
    def arguments(self, table: Table, operation: Operation) -> list[Any] | None:
        """Return arguments for a call; None if there is no handle for one, or the plugin says not to call it."""
        defaults: dict[str, Any] = {}
        for argument in operation.arguments:
            try:
                defaults[argument.name] = self._fits(table, operation, argument)
            except LookupError:
                return None
        found = self.samples.arguments(table, operation, defaults)
        return None if found is None else [found[argument.name] for argument in operation.arguments]

    def _fits(self, table: Table, operation: Operation, argument: Argument) -> Any:
        kind = argument.kind
        if kind is Kind.HANDLE:
            return self.handle(table, operation, argument)
        if kind is Kind.DEVICE:
            return self.memory
        if kind in HOST_KINDS:
            return self._buffer(max(64, host_bytes(operation, argument)))
        if kind is Kind.STRUCT:
            return [self._fits(table, operation, each) for each in argument.fields]
        if kind is Kind.ARRAY:
            return {"__array__": [self.memory, [4], [4], "<f4"]}
        return plain_sample(argument)

    def _buffer(self, size: int) -> int:
        buffer = self._host.get(size)
        if buffer is None:
            buffer = self._host[size] = (ctypes.c_double * (-(-size // 8)))(*([1.0] * (-(-size // 8))))
        return ctypes.addressof(buffer)

    def handle(self, table: Table, operation: Operation, argument: Argument) -> Any:
        """Return a handle of the argument's kind, a fresh one if the operation ends it; LookupError for none."""
        maker = makers(table).get(argument.of)
        if maker is None:
            found = self.samples.handle(table, operation, argument)
            if found is None:
                raise LookupError(argument.of)
            return found
        key = table.library, argument.of
        if argument.ends or key not in self._handles:
            made = self._make(table, maker)
            if argument.ends:
                return made
            self._handles[key] = made
        return self._handles[key]

    def _make(self, table: Table, maker: Operation) -> Any:
        if any(each.kind is Kind.HANDLE and each.of == maker.makes for each in maker.arguments):
            raise LookupError(maker.makes)
        arguments = self.arguments(table, maker)
        if arguments is None:
            raise LookupError(maker.makes)
        return self.samples.call(table, maker)(*arguments)

    # -- what is measured ---
    def count(self) -> dict[str, Any]:
        """Call every operation three times; return how many were called, and those that wait more than they say."""
        called: Counter[str] = Counter()
        wrong: list[str] = []
        waits: dict[str, int] = {}
        for table in self.tables:
            for operation in table.operations.values():
                if operation.served not in ("by the library", "by hand", "in the function") or operation.local:
                    continue
                outcome, trips = self._measure(table, operation)
                called[outcome] += 1
                if outcome == "not called":
                    continue
                name = f"{table.library}.{operation.name}"
                waits[name] = trips
                allowed = 1 if operation.must_wait else 0
                if trips > allowed:
                    wrong.append(f"{name} waits {trips} times, the table says {allowed}")
                if outcome.startswith("defect"):
                    wrong.append(f"{name}: {outcome}")
        return {"outcomes": dict(called), "wrong": wrong, "waits": dict(Counter(waits.values()))}

    def _measure(self, table: Table, operation: Operation) -> tuple[str, int]:
        """Return what a call gave and how often it waited, at best of three: the first may ask what is kept then."""
        trips: list[int] = []
        outcome = "called"
        for _ in range(3):
            try:
                arguments = self.arguments(table, operation)
                if arguments is None:
                    return "not called", 0
                call = self.samples.call(table, operation)
            except (LookupError, ImportError):
                return "not called", 0
            except ValueError as error:
                return f"defect: {error}", 0
            self._flush()
            with round_trips() as counter:
                try:
                    call(*arguments)
                except _ORDINARY:
                    outcome = "answered with an error"
                except Exception as error:
                    own = type(error).__name__ == table.error
                    outcome = "answered with an error" if own else f"defect: {type(error).__name__}: {error}"[:200]
            trips.append(counter["waits"])
            self._flush()
        return outcome, min(trips)

    @staticmethod
    def _flush() -> bool:
        """Take the error of a call that did not wait, so that it is not the next one's; return whether none was."""
        clean = True
        for _ in range(2):
            try:
                api.context_synchronize()
                break
            except (CudaError, MigproxyError):
                clean = False
        while late.take("") is not None:
            clean = False
        return clean

    def lifetimes(self) -> dict[str, Any]:
        """Make and end objects of each kind; return the kinds tried, and those that are still there afterwards."""
        tried, wrong = [], []
        for table in self.tables:
            ends = enders(table)
            for kind, maker in makers(table).items():
                if kind not in ends:
                    continue
                try:
                    made = [self._make(table, maker) for _ in range(ROUNDS)]
                except Exception:
                    continue  # the check of calls says why
                if not self._flush():
                    continue  # the device has no such objects
                before = self._alive()
                for each in made:
                    self.samples.call(table, ends[kind])(each)
                self._flush()
                after = self._alive()
                tried.append(kind)
                if sum(before.values()) - sum(after.values()) != ROUNDS:
                    wrong.append(f"{ROUNDS} objects of {kind} were ended: {dict(before - after)} went")
        return {"kinds": tried, "wrong": wrong}

    @staticmethod
    def _alive() -> Counter[str]:
        counters = api.statistics()
        return Counter({name: count for name, count in counters.items() if name.startswith("handles_")})

    def errors(self) -> dict[str, Any]:
        """Pass a handle that was never made to one operation of each table; it must be an error, and only that."""
        tried, wrong = [], []
        for table in self.tables:
            for operation in table.operations.values():
                handles = [each.name for each in operation.arguments if each.kind is Kind.HANDLE]
                if not handles or operation.served not in ("by the library", "by hand") or not operation.must_wait:
                    continue
                outcome = self._with_bad_handle(table, operation, handles[0])
                if outcome is None:
                    continue
                tried.append(f"{table.library}.{operation.name}")
                if outcome:
                    wrong.append(f"{table.library}.{operation.name}: {outcome}")
                break
        return {"tried": tried, "wrong": wrong}

    def _with_bad_handle(self, table: Table, operation: Operation, name: str) -> str | None:
        try:
            arguments = self.arguments(table, operation)
        except (LookupError, ImportError, *_ORDINARY):
            return None
        if arguments is None:
            return None
        arguments[[each.name for each in operation.arguments].index(name)] = 0x5D7F_FFFF_FFF0
        try:
            self.samples.call(table, operation)(*arguments)
        except MigproxyError as error:
            return "" if isinstance(error, CudaError) else f"migproxy's own {type(error).__name__} came out"
        except Exception:
            api.context_synchronize()
            return ""
        return "a handle that was never made was taken"


def growth(work: Callable[[], None]) -> dict[str, int]:
    """Return the kinds of handles of which there are ever more when the same work is done again and again.

    Twice as often must mean more: a library may keep a few until it next looks, as CuPy keeps the events of copies from
    pinned memory.
    """
    for _ in range(2):
        work()
    alive = []
    for rounds in (0, ROUNDS, ROUNDS):
        for _ in range(rounds):
            work()
        gc.collect()
        api.context_synchronize()
        alive.append(Caller._alive())
    first, second = alive[1] - alive[0], alive[2] - alive[1]
    return {name.removeprefix("handles_"): first[name] + second[name] for name in first if second[name] > 0}


def in_threads(work: Callable[[], None]) -> list[str]:
    """Do the work in several threads at once; return what went wrong."""
    wrong: list[str] = []

    def run() -> None:
        try:
            for _ in range(ROUNDS):
                work()
        except BaseException as error:
            wrong.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def after_fork(work: Callable[[], None], *, inherits: bool) -> list[str]:
    """Fork, and do the work in the child, which has a session of its own, and in the parent; return what went wrong.

    A library that keeps objects of its own over a fork (`inherits`) may fail in the child, as it does natively, but
    must say so.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b"ok"
        try:
            work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}".encode()[:500]
        os.write(write_end, said)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    fine = said == b"ok" or (inherits and said)
    wrong = [] if fine else [f"in the child: {said.decode() or 'it died'}"]
    try:
        work()
    except Exception as error:
        wrong.append(f"in the parent: {type(error).__name__}: {error}")
    return wrong
