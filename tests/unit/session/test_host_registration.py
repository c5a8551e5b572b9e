"""Registered host memory: what lies in the arena is mapped, what does not is told apart and why."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from migproxy.errors import CudaError
from migproxy.session.api import memory

ARENA, ORDINARY = 0x7000_0000_0000, 0x5500_0000_1000


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    heap = SimpleNamespace(owns=lambda address: address >= ARENA)
    monkeypatch.setattr(memory, "current", lambda: SimpleNamespace(heap=heap))
    monkeypatch.setattr(memory, "opened", lambda: None)
    for name in ("_registered", "_registered_arena", "_host_blocks"):
        monkeypatch.setattr(memory, name, {})


def test_arena_memory_is_mapped_where_it_lies() -> None:
    memory.host_register(ARENA, 8, 2)
    assert memory.host_device_pointer(ARENA + 4) == ARENA + 4
    memory.host_unregister(ARENA)
    with pytest.raises(CudaError) as caught:
        memory.host_device_pointer(ARENA)
    assert caught.value.status == 1


def test_ordinary_memory_is_registered_but_mapping_it_says_what_can_be_mapped() -> None:
    memory.host_register(ORDINARY, 8, 2)
    with pytest.raises(CudaError, match=r"ordinary memory at 0x550000001000.*cuMemHostAlloc.*NumPy arrays") as caught:
        memory.host_device_pointer(ORDINARY)
    assert caught.value.status == 801
    memory.host_unregister(ORDINARY)
