"""Every entry answers a call with nothing but zeros with a status: no crash, no exception."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from conftest import FakeSession
from migproxy_plugins.cuda import patch, registry, runtime_entries, treatment

from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.session.api import streams

BY_VALUE = {"CUmemLocation": 8, "cudaMemLocation": 8, "cudaExtent": 24, "cudaPos": 24, "cudaPitchedPtr": 32}
#: Struct arguments that only refused functions take.
HANDLES_BY_VALUE = {"CUipcMemHandle": 64, "CUipcEventHandle": 64, "cudaIpcMemHandle_t": 64, "cudaIpcEventHandle_t": 64}


def zeros(entry: dict[str, Any]) -> list[Any]:
    sizes = BY_VALUE | HANDLES_BY_VALUE
    return [bytes(sizes[ctype]) if ctype in sizes else 0 for ctype, _, _ in entry["arguments"]]


@pytest.fixture(autouse=True)
def strict(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fake session does not play refuses handle 0, as the real one does."""
    for name in api.__all__:
        function = getattr(api, name)
        if inspect.isfunction(function) and function.__module__.startswith("migproxy.session"):

            def refuse(*arguments: Any, **named: Any) -> Any:
                raise CudaError(400)

            monkeypatch.setattr(api, name, refuse)
    monkeypatch.setattr(api, "driver_call", lambda name, arguments: (400, ()))
    monkeypatch.setattr(streams, "capturing", lambda: False)


@pytest.mark.parametrize("major", [12, 13])
def test_driver(session: FakeSession, major: int) -> None:
    for name, entry in treatment.table("driver", major)["functions"].items():
        if name not in registry.load() and name not in patch.RULES:
            continue
        session.stack[:] = [session.CONTEXT]
        assert isinstance(patch.driver_handler(name)(*zeros(entry)), int), name


@pytest.mark.parametrize("major", [12, 13])
def test_runtime(session: FakeSession, major: int) -> None:
    for name, entry in treatment.table("runtime", major)["functions"].items():
        handler = runtime_entries.runtime_handler(name)
        if handler is None:
            continue
        session.stack[:] = [session.CONTEXT]
        assert isinstance(handler(*zeros(entry)), int), name
