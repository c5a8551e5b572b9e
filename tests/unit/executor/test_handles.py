"""How much a function may keep: its sessions count together, and what is over the limit is refused before it is
made."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from migproxy.abi import layout
from migproxy.arena import segment
from migproxy.arena.account import HANDLES, KERNELS, MODULES, PAGE_SIZE, QuotaAccount, clear_line
from migproxy.errors import CudaError
from migproxy.executor.handles import Handles


@pytest.fixture
def page() -> Iterator[int]:
    fd = segment.create("account", PAGE_SIZE)
    yield fd
    os.close(fd)


def session(page: int, place: int, **limits: int) -> Handles:
    handles = Handles()
    account = QuotaAccount(os.dup(page), place, 1 << 30, writable=True)
    handles.limit(**({"handles": 0, "modules": 0, "kernels": 0} | limits), account=account)
    return handles


@pytest.mark.parametrize(
    ("limit", "kind", "other"),
    [
        ("handles", layout.KIND_STREAM, layout.KIND_GRAPH),
        ("modules", layout.KIND_MODULE, layout.KIND_LIBRARY),
        ("kernels", layout.KIND_FUNCTION, layout.KIND_FUNCTION),
    ],
)
def test_the_sessions_of_a_function_share_a_limit(page: int, limit: str, kind: int, other: int) -> None:
    first, second = session(page, 0, **{limit: 3}), session(page, 1, **{limit: 3})
    kept = first.add(kind, 1)
    first.add(other, 2)
    second.add(kind, 3)
    for each in (first, second):
        with pytest.raises(CudaError, match=f"3 {limit}") as caught:
            each.require_room(kind)
        assert caught.value.status == 2
        with pytest.raises(CudaError, match=f"3 {limit}"):
            each.add(other, 4)
    first.remove(kind, kept)
    second.add(kind, 5)
    with pytest.raises(CudaError):
        first.require_room(kind)


def test_what_is_limited_is_only_what_the_limit_names(page: int) -> None:
    handles = session(page, 0, modules=1)
    handles.add(layout.KIND_MODULE, 1)
    handles.add(layout.KIND_STREAM, 2)
    handles.add(layout.KIND_FUNCTION, 3)
    with pytest.raises(CudaError, match="1 modules"):
        handles.add(layout.KIND_LIBRARY, 4)


def test_a_session_that_ended_makes_room(page: int) -> None:
    first, second = session(page, 0, handles=2), session(page, 1, handles=2)
    for real in (1, 2):
        first.add(layout.KIND_STREAM, real)
    with pytest.raises(CudaError):
        second.add(layout.KIND_STREAM, 3)
    clear_line(page, 0)
    second.add(layout.KIND_STREAM, 3)
    assert [second._account.others(each) for each in (HANDLES, MODULES, KERNELS)] == [0, 0, 0]  # type: ignore[union-attr]
