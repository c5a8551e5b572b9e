"""A stand-in wired to an executor's server in the same process, over the same encoding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from migproxy_plugins.cupy import calls, executor
from migproxy_plugins.cupy import objects_unsafe as raw

from migproxy.errors import CudaError
from migproxy.executor.dispatch import LibraryError
from migproxy.session.session import LibraryCallError


class Context:
    """What an executor would give; every range is the session's unless told otherwise."""

    stream = 0

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.forbidden = False
        self.synchronised = 0
        self.charged = 0

    def check_range(self, address: int, size: int) -> None:
        if self.forbidden:
            raise CudaError(1)

    def synchronize(self) -> None:
        self.synchronised += 1

    def charge(self, size: int) -> None:
        self.charged += size


def _travel(value: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


class Loopback:
    """Records what travels."""

    def __init__(self, kind: str = "software") -> None:
        self.context = Context(kind)
        self.server = executor.Server(self.context, "14.2.0" if kind == "software" else None)
        self.calls: list[tuple[str, list[Any], bool]] = []
        #: Functions whose calls left as the bytes of an earlier one.
        self.posted: list[str] = []

    def api(self) -> SimpleNamespace:
        """Return what stands for ``migproxy.session.api``."""

        def encode(library: str, function: str, arguments: Any) -> bytes:
            return msgspec.msgpack.encode((library, function, list(arguments)))

        def post(payload: bytes, *, stream: int) -> None:
            library, function, arguments = msgspec.msgpack.decode(payload)
            self.posted.append(function)
            self.library_call(library, function, arguments, stream=stream, wait=False)

        return SimpleNamespace(
            library_call=self.library_call,
            raise_deferred=lambda package="": None,
            encode_library_call=encode,
            post_library_call=post,
        )

    def library_call(
        self, library: str, function: str, arguments: Any, *, stream: int, wait: bool, lease: bool = True
    ) -> Any:
        sent = _travel(list(arguments))
        self.calls.append((function, sent, wait))
        try:
            answer = self.server.serve(self.context, library, function, sent)
        except LibraryError as error:
            raise LibraryCallError(_travel(error.facts)) from None
        return _travel(answer) if wait else None


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """Stand-ins made in the test reach an executor's server in this process."""
    made = Loopback()
    monkeypatch.setattr(calls, "api", made.api())
    monkeypatch.setattr(raw, "current_stream", lambda: 0)
    return made
