"""What kernels print is out before a waiter hears of their end; the GPU's driver sees to that only in its own waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.executor import pump_block
from migproxy.executor.handlers.modules import may_print

from .executor_rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("image", "prints"),
    [
        (b".version 8.0 .extern .func (.param .b32 r) vprintf (.param .b64 f)", True),
        (b"\x7fELF ... vprintf ...", True),
        (b"\x50\xed\x55\xba compressed", True),
        (b".version 8.0 .visible .entry k() { ret; }", False),
    ],
)
def test_which_images_print(image: bytes, prints: bool) -> None:
    assert may_print(image) == prints


def waits_by_the_driver(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    real = rig.state.driver.status

    def status(name: str, *arguments: Any) -> int:
        if name == "cuEventSynchronize":
            seen.append(arguments[0])
        return real(name, *arguments)

    monkeypatch.setattr(rig.state.driver, "status", status)
    return seen


def test_waits_go_through_the_drivers_own_once_kernels_may_print(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = waits_by_the_driver(rig, monkeypatch)
    monkeypatch.setattr(rig.state.driver, "kind", "gpu")
    assert rig.call(Op.STREAM_SYNC, b"")[0] == 0
    assert not waited
    rig.state.expect_prints()
    assert rig.call(Op.STREAM_SYNC, b"")[0] == 0
    assert len(waited) == 1
    event = layout.make_handle(layout.KIND_EVENT, 3)
    rig.producer.submit(Op.EVENT_CREATE, layout.CREATE.pack(event, 0, 0))
    rig.producer.submit(Op.EVENT_RECORD, layout.EVENT.pack(event, 0))
    assert rig.call(Op.EVENT_SYNC, layout.HANDLE.pack(event))[0] == 0
    assert len(waited) == 2
    assert rig.call(Op.CONTEXT_SYNC, b"")[0] == 0
    assert len(waited) == 3


def test_the_software_gpu_needs_none_of_it(rig: Rig) -> None:
    rig.state.expect_prints()
    assert not rig.state.completions.printing
    assert rig.state.pump.get(pump_block.PRINTING) == 0
