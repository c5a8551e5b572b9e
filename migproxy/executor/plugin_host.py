"""The executor's side of plugins: loads the halves on the broker's allow-list when a function first needs them.

An executor half is a module, or its attribute ``HALF``, with ``LIBRARIES`` (the names of the libraries it serves) and
``serve(context, library, function, arguments)``, and optionally ``prepare`` with the same arguments, which returns a
callable that repeats the call, or a `Repeat` that tells the C functions behind it, too; ``needs_lease(library,
function)``; ``counts()``, the living objects by kind; and ``preload()``, which imports what calls will need, in an
executor that waits for its session.
`migproxy.executor.table_server` makes one from tables. It runs in this session's executor only, under the same quota,
lease and sandbox.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from migproxy.abi.tables import ENTRY_POINT_GROUP, INTERFACE_VERSION
from migproxy.errors import CudaError, PluginError
from migproxy.executor.dispatch import LibraryError, Refused
from migproxy.executor.repeat_tables_unsafe import Repeat

if TYPE_CHECKING:
    from migproxy.executor.state import SessionState

log = logging.getLogger("migproxy.executor")
#: The library under which the cuda plugin serves marshalled driver functions.
DRIVER_LIBRARY = "cuda.driver"
Server = Callable[[str, str, list[Any], int], Any]


class LibraryContext:
    """What an executor half may use of the session while it serves one call.

    Attributes
    ----------
    kind : str
        ``"software"`` or ``"gpu"``.
    stream : int
        The real stream the call works on.
    """

    LibraryError = LibraryError
    Refused = Refused
    CudaError = CudaError

    def __init__(self, state: SessionState, stream: int) -> None:
        self.state = state
        self.driver = state.driver
        self.kind = state.driver.kind
        self.handles = state.handles
        self.stream = stream

    def synchronize(self) -> None:
        """Wait until the work submitted to the call's stream is done."""
        self.driver.call("cuStreamSynchronize", self.stream)

    def capturing(self) -> bool:
        """Tell whether the call's stream is being captured."""
        if not self.stream:
            return False
        return self.driver.out("cuStreamIsCapturing", before=(self.stream,), kind=ctypes.c_int) == 1

    def charge(self, size: int) -> None:
        """Charge device memory that the library took (negative: gave back) outside the session's own allocations."""
        self.state.memory.charge_other(size)
        self.state.publish_memory()

    def check_range(self, address: int, size: int) -> None:
        """Raise CudaError(1) unless the range is the session's device memory, or its arena, which kernels reach too."""
        if not self.state.consumer.in_heap(address, size):
            self.state.memory.check_range(address, size)


def preload(name: str) -> None:
    """Have a plugin's executor half import what its calls need; what fails then fails again when it is needed."""
    try:
        for entry in entry_points(group=ENTRY_POINT_GROUP):
            if entry.name == name and (path := entry.load().PLUGIN.executor):
                module = importlib.import_module(path)
                getattr(getattr(module, "HALF", module), "preload", lambda: None)()
    except Exception as error:
        log.warning("plugin %r cannot be prepared: %s: %s", name, type(error).__name__, error)


class PluginHost:
    """Finds and loads executor halves.

    Parameters
    ----------
    state : SessionState
    allowed : sequence of str
        Plugin names from the broker's configuration; ``"*"`` for all that are installed.
    """

    def __init__(self, state: SessionState, allowed: Sequence[str]) -> None:
        self._state = state
        self._allowed = tuple(allowed)
        self._halves: dict[str, Any] = {}
        self._broken: dict[str, str] = {}
        self._owners: dict[str, str] | None = None

    def _declared(self) -> dict[str, str]:
        """Return which allowed plugin serves which library, by their declarations; a broken one is named in the log."""
        if self._owners is not None:
            return self._owners
        self._owners = {}
        found = {entry.name: entry for entry in reversed(list(entry_points(group=ENTRY_POINT_GROUP)))}
        for name in sorted(found) if "*" in self._allowed else self._allowed:
            entry = found.get(name)
            if entry is None:
                log.info("plugin %r is on the allow-list but not installed with the executor", name)
                continue
            try:
                plugin = entry.load().PLUGIN
                if plugin.interface != INTERFACE_VERSION:
                    raise PluginError(
                        f"made for plugin interface {plugin.interface}; this migproxy has {INTERFACE_VERSION}"
                    )
                for library in plugin.libraries:
                    self._owners.setdefault(library, name)
                self._halves[name] = plugin.executor
            except Exception as error:
                self._broken[name] = f"{type(error).__name__}: {error}"
                log.exception("plugin %r cannot be loaded", name)
        return self._owners

    def _half(self, library: str) -> Any:
        """Return the executor half that serves a library.

        Raises
        ------
        Refused
            No allowed plugin does, or it is broken; the message names it.
        """
        name = self._declared().get(library)
        if name is None:
            broken = "".join(f"; plugin {each!r} is broken: {why}" for each, why in self._broken.items())
            allowed = "" if "*" in self._allowed else "on this broker's allow-list "
            where = f"{allowed}among what its executors have in {sys.prefix}"
            raise Refused(f"library {library!r} has no plugin {where}{broken}")
        half = self._halves.get(name)
        if name in self._broken:
            raise Refused(f"plugin {name!r} is broken: {self._broken[name]}")
        if isinstance(half, str):
            try:
                module = importlib.import_module(half)
                half = getattr(module, "HALF", module)
                missing = library not in getattr(half, "LIBRARIES", ())
            except Exception as error:
                self._broken[name] = f"{type(error).__name__}: {error}"
                log.exception("plugin %r: its executor half cannot be loaded", name)
                raise Refused(f"plugin {name!r} is broken: {self._broken[name]}") from error
            if missing:
                self._broken[name] = f"its executor half does not serve {library!r}"
                raise Refused(f"plugin {name!r} is broken: {self._broken[name]}")
            self._halves[name] = half
        return half

    def driver(self, name: str, arguments: list[Any]) -> tuple[int, Sequence[Any]]:
        """Carry out a driver function of the cuda plugin's table."""
        status, outs = self.serve(DRIVER_LIBRARY, name, arguments, 0)
        return status, outs

    def serve(self, library: str, function: str, arguments: list[Any], stream: int) -> Any:
        """Carry out a library's function."""
        context = LibraryContext(self._state, self._state.stream(stream))
        return self._half(library).serve(context, library, function, arguments)

    def prepare(self, library: str, function: str, arguments: list[Any], stream: int) -> Repeat | None:
        """Return what repeats a call that was just served, if its plugin can say."""
        prepare = getattr(self._half(library), "prepare", None)
        if prepare is None:
            return None
        context = LibraryContext(self._state, self._state.stream(stream))
        ready: Callable[[], Any] | None = prepare(context, library, function, arguments)
        return ready if ready is None or isinstance(ready, Repeat) else Repeat(ready)

    def needs_lease(self, library: str, function: str) -> bool:
        """Tell whether a library's function uses the multiprocessors; True unless its plugin says otherwise."""
        needs_lease = getattr(self._half(library), "needs_lease", None)
        return True if needs_lease is None else bool(needs_lease(library, function))

    def counts(self) -> Counter[str]:
        """Return how many objects of plugins' libraries are alive, by kind."""
        found: Counter[str] = Counter()
        for half in list(self._halves.values()):
            counts = getattr(half, "counts", None)
            if counts is not None:
                found.update(counts())
        return found
