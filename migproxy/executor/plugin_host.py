"""The executor's side of plugins: loads the halves on the broker's allow-list when a function first needs them.

An executor half is a module with ``LIBRARIES`` (the names of the libraries it serves) and
``serve(context, library, function, arguments)``, and optionally ``prepare`` with the same arguments, which returns a
callable that repeats the call. It runs in this session's executor only, under the same quota,
lease and sandbox.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

from migproxy.errors import CudaError, PluginError
from migproxy.executor.dispatch import LibraryError, Refused

if TYPE_CHECKING:
    from migproxy.executor.state import SessionState

log = logging.getLogger("migproxy.executor")
ENTRY_POINT_GROUP = "migproxy.plugins"
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

    def charge(self, size: int) -> None:
        """Charge device memory that the library took (negative: gave back) outside the session's own allocations."""
        self.state.memory.charge_other(size)
        self.state.publish_memory()

    def check_range(self, address: int, size: int) -> None:
        """Raise CudaError(1) unless the range is the session's device memory, or its arena, which kernels reach too."""
        if not self.state.consumer.in_heap(address, size):
            self.state.memory.check_range(address, size)


class PluginHost:
    """Finds and loads executor halves.

    Parameters
    ----------
    state : SessionState
    allowed : sequence of str
        Plugin names from the broker's configuration.
    """

    def __init__(self, state: SessionState, allowed: Sequence[str]) -> None:
        self._state = state
        self._allowed = tuple(allowed)
        self._modules: dict[str, ModuleType] = {}
        self._servers: dict[str, ModuleType] | None = None

    def _executor_half(self, name: str) -> ModuleType | None:
        if name in self._modules:
            return self._modules[name]
        if name not in self._allowed:
            raise Refused(f"plugin {name!r} is not on this broker's allow-list")
        entries = [entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == name]
        if not entries:
            raise Refused(f"plugin {name!r} is not installed with the executor")
        plugin = entries[0].load().PLUGIN
        if not plugin.executor:
            return None
        module = self._modules[name] = importlib.import_module(plugin.executor)
        return module

    def driver(self, name: str, arguments: list[Any]) -> tuple[int, Sequence[Any]]:
        """Carry out a driver function of the cuda plugin's table."""
        half = self._executor_half("cuda")
        if half is None:
            raise PluginError("the cuda plugin has no executor half")
        status, outs = half.serve(self._state.driver, self._state, name, arguments)
        return status, outs

    def library(self, library: str) -> Server | None:
        """Return what serves a library's functions, None if no allowed plugin does."""
        if self._servers is None:
            self._servers = {}
            for name in self._allowed:
                try:
                    half = self._executor_half(name)
                except Exception:
                    log.exception("plugin %r cannot be loaded", name)
                    continue
                for served in getattr(half, "LIBRARIES", ()):
                    self._servers[served] = half  # type: ignore[assignment]
        half = self._servers.get(library)
        if half is None:
            return None
        serve = half.serve

        def server(library: str, function: str, arguments: list[Any], stream: int) -> Any:
            context = LibraryContext(self._state, self._state.stream(stream))
            return serve(context, library, function, arguments)

        return server

    def prepare(self, library: str, function: str, arguments: list[Any], stream: int) -> Callable[[], Any] | None:
        """Return what repeats a call that was just served, if its plugin can say; see `serve` and ``prepare`` there."""
        half = (self._servers or {}).get(library)
        prepare = getattr(half, "prepare", None)
        if prepare is None:
            return None
        context = LibraryContext(self._state, self._state.stream(stream))
        ready: Callable[[], Any] | None = prepare(context, library, function, arguments)
        return ready
