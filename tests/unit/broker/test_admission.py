"""Admission and ledger: pure, no process."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migproxy.abi.control import Windows
from migproxy.abi.protocol import PROTOCOL_VERSION, WINDOW_BASE, WINDOW_END
from migproxy.broker.admission import Denied, admit, check_protocol, check_windows
from migproxy.broker.config import BrokerConfig, Limits
from migproxy.broker.ledger import Ledger, LedgerFull
from migproxy.device.inventory import Slice

from .broker_tools import WINDOWS, hello

SMALL = Slice("gpu0", "gpu", "GPU-1", 1 << 30, 0, "GPU-11111111")
LARGE = Slice("MIG-abcdefgh", "mig", "MIG-abcdefgh", 4 << 30, 1, "MIG-abcdefgh")


def ledgers() -> dict[str, Ledger]:
    return {each.name: Ledger(each.memory) for each in (SMALL, LARGE)}


def test_auto_takes_the_slice_with_most_room() -> None:
    books = ledgers()
    first = admit(hello(memory=3 << 30), 1, "s1", "function-1", (SMALL, LARGE), books, BrokerConfig("x"))
    second = admit(hello(memory=1 << 30), 1, "s2", "function-2", (SMALL, LARGE), books, BrokerConfig("x"))
    third = admit(hello(memory=1 << 30), 1, "s3", "function-3", (SMALL, LARGE), books, BrokerConfig("x"))
    assert (first.slice, {second.slice.name, third.slice.name}) == (LARGE, {SMALL.name, LARGE.name})


def test_a_slice_with_a_warm_executor_comes_first_if_it_has_room() -> None:
    books, warm = ledgers(), {SMALL.name: 1, LARGE.name: 0}
    slices, config = (SMALL, LARGE), BrokerConfig("x")
    first = admit(hello(memory=1 << 30), 1, "s1", "function-1", slices, books, config, warm.__getitem__)
    second = admit(hello(memory=1 << 30), 1, "s2", "function-2", slices, books, config, warm.__getitem__)
    assert (first.slice, second.slice) == (SMALL, LARGE)


def test_a_profile_means_its_instances() -> None:
    small, other = (replace(LARGE, name=f"MIG-{n}", profile="1g.10gb") for n in ("aaaaaaaa", "bbbbbbbb"))
    slices = (SMALL, LARGE, small, other)
    books = {each.name: Ledger(each.memory) for each in slices}
    chosen = [
        admit(hello(memory=3 << 30, device="1g.10gb"), 1, f"s{n}", f"function-{n}", slices, books, BrokerConfig("x"))
        for n in range(2)
    ]
    assert {each.slice.name for each in chosen} == {small.name, other.name}
    with pytest.raises(Denied, match=r"no device '7g\.80gb' here"):
        admit(hello(device="7g.80gb"), 1, "s9", "function-9", slices, books, BrokerConfig("x"))


def test_defaults_and_cap() -> None:
    shared = admit(hello(memory=0), 1, "s1", "function-1", (LARGE,), ledgers(), BrokerConfig("x"))
    private = admit(hello(memory=0), 1, "s1", "function-1", (LARGE,), ledgers(), BrokerConfig("x", private=True))
    assert (shared.quota, private.quota) == (1 << 30, 4 << 30)
    with pytest.raises(Denied, match="a function may have 2GiB"):
        admit(hello(memory=3 << 30), 1, "s1", "function-1", (LARGE,), ledgers(), BrokerConfig("x", max_memory=2 << 30))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"device": "gpu7"}, "device", "there is: gpu0, MIG-abcdefgh"),
        ({"device": "toaster"}, "device", "unknown device 'toaster'"),
        ({"memory": -1}, "usage", "makes no sense"),
        ({"memory": 1}, "memory", "least quota"),
        ({"memory": 1 << 50}, "memory", "may have"),
        (
            {"libraries": {"cupy-cuda12x": "12.0"}},
            "version",
            "migproxy works with cupy-cuda12x 13.4 or newer, below 15",
        ),
        ({"protocol": 99}, "protocol", f"protocol 99, the broker speaks protocol {PROTOCOL_VERSION}"),
    ],
)
def test_denials_name_the_reason(changes: dict[str, object], kind: str, words: str) -> None:
    books = ledgers()
    with pytest.raises(Denied, match=words) as caught:
        admit(hello(**changes), 1, "s1", "function-1", (SMALL, LARGE), books, BrokerConfig("x"))
    assert (caught.value.kind, caught.value.later) == (kind, False)
    assert not any(book.reserved for book in books.values())


def test_only_a_lack_that_can_pass_may_be_waited_for() -> None:
    books = ledgers()
    admit(hello(memory=4 << 30), 1, "s1", "function-1", (LARGE,), books, BrokerConfig("x"))
    with pytest.raises(Denied) as caught:
        admit(hello(memory=4 << 30), 1, "s2", "function-2", (LARGE,), books, BrokerConfig("x"))
    assert caught.value.later


def test_another_user_cannot_join_a_function() -> None:
    books = ledgers()
    admit(hello(), 1, "s1", "function-1", (LARGE,), books, BrokerConfig("x"))
    with pytest.raises(Denied, match="another user"):
        admit(hello(), 2, "s2", "function-1", (LARGE,), books, BrokerConfig("x"))


def test_a_function_has_a_limit_of_sessions() -> None:
    books = ledgers()
    config = BrokerConfig("x", limits=Limits(sessions=2))
    for name in ("s1", "s2"):
        admit(hello(), 1, name, "function-1", (LARGE,), books, config)
    with pytest.raises(Denied, match="the limit is 2"):
        admit(hello(), 1, "s3", "function-1", (LARGE,), books, config)


@pytest.mark.parametrize(
    "windows",
    [
        Windows(0, 4 << 30, WINDOW_BASE, 4 << 30),
        Windows(WINDOW_BASE, 4 << 30, WINDOW_BASE, 4 << 30),
        Windows(WINDOW_BASE + 4096, 4 << 30, WINDOW_BASE + (8 << 32), 4 << 30),
        Windows(WINDOW_BASE, -(4 << 30), WINDOW_BASE + (8 << 32), 4 << 30),
        Windows(WINDOW_BASE, 4 << 30, WINDOW_END - (1 << 32), 8 << 30),
        Windows(WINDOW_BASE, 1 << 62, WINDOW_BASE + (8 << 32), 4 << 30),
    ],
)
def test_windows_that_cannot_be_used_are_refused(windows: Windows) -> None:
    check_windows(WINDOWS)
    with pytest.raises(Denied, match="address window"):
        check_windows(windows)


def test_protocol_refusal_names_both() -> None:
    check_protocol(PROTOCOL_VERSION)
    with pytest.raises(Denied, match=f"protocol 7.*protocol {PROTOCOL_VERSION}"):
        check_protocol(7)


@settings(max_examples=200, deadline=None)
@given(
    capacity=st.integers(0, 100),
    steps=st.lists(
        st.tuples(st.sampled_from("rf"), st.integers(0, 5), st.integers(0, 8), st.integers(1, 60)), max_size=40
    ),
)
def test_promises_never_exceed_the_slice(capacity: int, steps: list[tuple[str, int, int, int]]) -> None:
    ledger = Ledger(capacity)
    quotas: dict[str, int] = {}
    members: dict[str, set[str]] = {}
    for kind, function, session, quota in steps:
        name, member = f"f{function}", f"s{session}"
        inside = member in members.get(name, set())
        if kind == "r" and not inside:
            try:
                account = ledger.reserve(name, 1, member, quota)
            except LedgerFull:
                assert name not in quotas
                assert quota > capacity - sum(quotas.values())
                continue
            quotas.setdefault(name, quota)
            assert account.quota == quotas[name]
            members.setdefault(name, set()).add(member)
        elif kind == "f" and inside:
            ledger.release(name, member)
            members[name].remove(member)
            if not members[name]:
                del members[name], quotas[name]
        assert ledger.reserved == sum(quotas.values()) <= capacity
