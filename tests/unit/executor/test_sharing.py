"""Two sessions that share memory and events, each with its executor in this process, through a broker's table."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from migproxy.abi import layout, sharing
from migproxy.abi.ops import Op
from migproxy.arena import packets
from migproxy.broker.sessions import Session
from migproxy.broker.shares import Shares
from migproxy.device.inventory import software_slice

from .executor_rig import QUOTA, WINDOW, Rig

MIB = 1 << 20
GRANULE = 2 * MIB


class Party(Rig):
    """A session that speaks with a broker's table."""

    def __init__(self, shares: Shares, name: str, uid: int = 1) -> None:
        super().__init__()
        self.session = Session(name, name, uid, None, software_slice(1 << 30), QUOTA, "running")  # type: ignore[arg-type]
        self.session.executor = self  # type: ignore[assignment]
        self.shares = shares
        self.asked = 0
        self.state.sharing.connect(self._to_broker)

    def _to_broker(self, message: Any, fds: Any) -> None:
        self.asked += 1
        self.shares.handle(self.session, message, [os.dup(fd) for fd in fds])

    def send(self, message: Any, fds: Any = ()) -> None:
        """The broker's answer."""
        self.state.sharing.receive(message, [os.dup(fd) for fd in fds])

    def call(self, op: int, payload: bytes, stream: int = 0) -> tuple[int, bytes]:
        number = self.producer.submit(op, payload, stream=stream, flags=layout.FLAG_WAIT)
        self.step()
        self.state.sharing.look()
        self.step()
        return self.producer.wait(number, 5.0)

    def map(self, size: int, at: int = 0) -> int:
        self.state.memory.map(self.device + at, size)
        return self.device + at

    def write(self, address: int, data: bytes) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        self.state.driver.call("cuMemcpyHtoD", address, ctypes.addressof(buffer), len(data))

    def read(self, address: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        self.state.driver.call("cuMemcpyDtoH", ctypes.addressof(buffer), address, size)
        return buffer.raw

    def give(self, base: int, size: int) -> tuple[int, bytes]:
        return self.call(Op.IPC_GIVE_MEMORY, layout.RANGE.pack(base, size))

    def take(self, token: bytes) -> tuple[int, bytes]:
        return self.call(Op.IPC_TAKE_MEMORY, token)


@pytest.fixture
def make() -> Iterator[Any]:
    shares = Shares(4096)
    made: list[Party] = []
    before = len(os.listdir("/proc/self/fd"))

    def party(name: str, uid: int = 1) -> Party:
        made.append(Party(shares, name, uid))
        return made[-1]

    yield party
    for each in made:
        shares.leave(each.session)
        each.close()
    assert shares.descriptors == 0
    made.clear()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_both_read_and_write_one_allocation(make: Any) -> None:
    giver, taker = make("a"), make("b")
    giver.map(4 * MIB)
    giver.map(2 * MIB, 4 * MIB)  # another piece
    base = giver.device + 512
    giver.write(base, b"before")
    status, token = giver.give(base, 5 * MIB)
    assert (status, len(token)) == (0, sharing.TOKEN_BYTES)
    status, reply = taker.take(token)
    assert status == 0, reply
    address, size = layout.RANGE.unpack_from(reply)
    assert size == 5 * MIB
    assert taker.device + WINDOW // 2 <= address < taker.device + WINDOW
    assert taker.read(address, 6) == b"before"
    taker.write(address + 4 * MIB, b"back")
    assert giver.read(base + 4 * MIB, 4) == b"back"
    giver.write(base, b"after!")
    assert taker.read(address, 6) == b"after!"
    assert taker.take(token) == (0, reply)
    assert giver.give(base, 5 * MIB) == (0, token)
    assert (giver.asked, taker.asked) == (1, 1)


def test_the_taker_is_charged_for_all_of_it_and_keeps_it_when_it_is_freed(make: Any) -> None:
    giver, taker = make("a"), make("b")
    base = giver.map(4 * MIB)
    giver.write(base, b"kept")
    _, token = giver.give(base, 100)
    before = taker.state.memory.used_bytes
    address, _ = layout.RANGE.unpack_from(taker.take(token)[1])
    assert taker.state.memory.used_bytes == before + 4 * MIB
    assert taker.producer.other_bytes() == taker.state.memory.taken_bytes == 4 * MIB
    giver.call(Op.UNMAP, layout.RANGE.pack(base, 4 * MIB))
    assert giver.state.memory.used_bytes == 0
    assert taker.read(address, 4) == b"kept"
    assert make("c").take(token)[0] == 1  # but nobody else gets it any more
    assert taker.call(Op.IPC_CLOSE_MEMORY, layout.HANDLE.pack(address))[0] == 0
    assert taker.state.memory.used_bytes == before
    assert taker.call(Op.IPC_CLOSE_MEMORY, layout.HANDLE.pack(address))[0] == 1
    assert taker.state.driver.status("cuMemGetAddressRange", 0, 0, address) != 0


def test_beyond_the_quota_nothing_is_taken(make: Any) -> None:
    giver, taker = make("a"), make("b")
    base = giver.map(4 * MIB)
    _, token = giver.give(base, 4 * MIB)
    taker.state.memory.charge_other(QUOTA - 2 * MIB)
    assert taker.take(token)[0] == 2
    assert taker.state.memory.taken_bytes == 0
    taker.state.memory.charge_other(-4 * MIB)
    assert taker.take(token)[0] == 0


def test_only_own_memory_is_given(make: Any) -> None:
    giver, taker = make("a"), make("b")
    base = giver.map(4 * MIB)
    for wrong in ((0, 8), (base, 0), (base, 4 * MIB + 1), (base - 8, 16), (base + 4 * MIB, 8), (giver.heap, 8)):
        assert giver.give(*wrong)[0] != 0, wrong
    address, size = layout.RANGE.unpack_from(taker.take(giver.give(base, 4 * MIB)[1])[1])
    assert taker.give(address, size)[0] != 0  # it is not the taker's to pass on
    assert taker.call(Op.UNMAP, layout.RANGE.pack(address, size))[0] != 0
    assert taker.call(Op.MAP, layout.RANGE.pack(address, size))[0] != 0
    assert taker.read(address, 1) == b"\0"


def test_the_owner_itself_and_other_owners_take_nothing(make: Any) -> None:
    giver, other = make("a"), make("b", uid=2)
    _, token = giver.give(giver.map(2 * MIB), 8)
    assert giver.take(token)[0] == 201
    assert other.take(token)[0] == 1
    assert other.take(bytes(32))[0] == 1
    assert other.call(Op.IPC_TAKE_MEMORY, b"short")[0] == layout.STATUS_PROTOCOL


def test_a_withdrawn_token_is_not_the_next_allocations(make: Any) -> None:
    giver, taker = make("a"), make("b")
    base = giver.map(2 * MIB)
    _, token = giver.give(base, 100)
    giver.call(Op.IPC_WITHDRAW, layout.HANDLE.pack(base))
    status, again = giver.give(base, 200)
    assert status == 0
    assert again != token
    assert taker.take(token)[0] == 1
    assert layout.RANGE.unpack_from(taker.take(again)[1])[1] == 200


def test_memory_that_is_freed_while_it_is_being_shared_is_not(make: Any) -> None:
    giver, taker = make("a"), make("b")
    base = giver.map(2 * MIB)
    number = giver.producer.submit(Op.IPC_GIVE_MEMORY, layout.RANGE.pack(base, 100), flags=layout.FLAG_WAIT)
    giver.step()
    giver.producer.submit(Op.IPC_WITHDRAW, layout.HANDLE.pack(base))
    giver.step()
    giver.state.sharing.look()
    status, token = giver.producer.wait(number, 5.0)
    assert (status, token) == (1, b"")
    assert len(taker.shares) == 0
    assert giver.give(base, 100)[0] == 0


def test_many_handles_are_opened_a_few_at_a_time(make: Any) -> None:
    taker = make("b")
    numbers = []
    for count in range(200):
        token = struct.pack("<32s", str(count).encode())
        numbers.append(taker.producer.submit(Op.IPC_TAKE_MEMORY, token, flags=layout.FLAG_WAIT))
    taker.step()
    assert taker.asked == sharing.MOST_AT_ONCE
    for _ in range(200 // sharing.MOST_AT_ONCE + 1):
        taker.state.sharing.look()
    assert {taker.producer.wait(number, 5.0)[0] for number in numbers} == {1}
    assert taker.asked == 200


def test_a_descriptor_that_is_no_device_memory_is_not_mapped(make: Any) -> None:
    giver, taker = make("a"), make("b")
    fd = os.memfd_create("no seals")
    os.ftruncate(fd, GRANULE)
    giver.shares.handle(giver.session, sharing.Give(1, sharing.MEMORY, (GRANULE,), 0, 8), [fd])
    token = next(iter(giver.shares._objects))
    assert taker.take(token)[0] == 1
    assert taker.state.memory.used_bytes == 0
    # One that says it is smaller than it is.
    base = giver.map(4 * MIB)
    descriptors = giver.state.memory.export(giver.state.memory.pieces(base, 4 * MIB))
    giver.shares.handle(giver.session, sharing.Give(2, sharing.MEMORY, (GRANULE,), 0, 8), descriptors)
    assert taker.take(list(giver.shares._objects)[-1])[0] != 0
    assert taker.state.memory.used_bytes == 0


SLOW = layout.make_handle(layout.KIND_EVENT, 1 << 20)


def test_an_event_of_another_session_is_waited_for(make: Any) -> None:
    giver, taker = make("a"), make("b")
    small = layout.make_handle(layout.KIND_EVENT, 5)
    assert giver.call(Op.EVENT_CREATE, layout.CREATE.pack(small, 6, 0))[0] == 400  # the pump would know it
    assert giver.call(Op.EVENT_CREATE, layout.CREATE.pack(SLOW, 6, 0))[0] == 0
    status, token = giver.call(Op.IPC_GIVE_EVENT, layout.HANDLE.pack(SLOW))
    assert status == 0, token
    assert taker.call(Op.IPC_TAKE_EVENT, layout.HANDLE.pack(small) + token)[0] == 400
    assert taker.call(Op.IPC_TAKE_EVENT, layout.HANDLE.pack(SLOW) + token)[0] == 0
    assert giver.call(Op.IPC_TAKE_EVENT, layout.HANDLE.pack(SLOW + 1) + token)[0] == 201
    assert taker.call(Op.EVENT_QUERY, layout.HANDLE.pack(SLOW))[0] == 0
    page = giver.state.driver.device.event(giver.state.handles.real(layout.KIND_EVENT, SLOW)).shared
    number = page.record()
    assert taker.call(Op.EVENT_QUERY, layout.HANDLE.pack(SLOW))[0] == 600
    assert taker.state.sharing.must_wait(SLOW)
    waits = taker.producer.submit(Op.EVENT_SYNC, layout.HANDLE.pack(SLOW), flags=layout.FLAG_WAIT)
    taker.step()
    taker.state.sharing.look()
    assert taker.state.sharing.waiting == [(waits, SLOW)]
    assert not taker.state.completions  # nothing of its own that could hang
    page.reach(number)
    assert taker.call(Op.EVENT_QUERY, layout.HANDLE.pack(SLOW))[0] == 0
    assert not taker.state.sharing.must_wait(SLOW)
    taker.state.sharing.look()
    assert taker.producer.wait(waits, 5.0)[0] == 0
    assert taker.state.sharing.waiting == []
    page.record()
    waits = taker.producer.submit(Op.EVENT_SYNC, layout.HANDLE.pack(SLOW), flags=layout.FLAG_WAIT)
    taker.step()
    for each in (giver, taker):
        assert each.call(Op.EVENT_DESTROY, layout.HANDLE.pack(SLOW))[0] == 0
        assert each.state.sharing.events == set()
    taker.state.sharing.look()
    assert taker.producer.wait(waits, 5.0)[0] == 400  # it was destroyed while somebody waited
    assert len(giver.shares) == 0


def test_an_event_that_was_not_made_for_it_is_not_shared(make: Any) -> None:
    giver = make("a")
    assert giver.call(Op.EVENT_CREATE, layout.CREATE.pack(SLOW, 2, 0))[0] == 0
    assert giver.call(Op.IPC_GIVE_EVENT, layout.HANDLE.pack(SLOW))[0] == 400
    assert giver.call(Op.IPC_GIVE_EVENT, layout.HANDLE.pack(SLOW + 1))[0] == 400


def test_messages_survive_the_wire() -> None:
    for message in (
        sharing.Give(1, sharing.MEMORY, (1, 2), 3, 4, b"", True),
        sharing.Take(1, sharing.EVENT, b"t"),
        sharing.Withdraw(b"t"),
    ):
        assert packets.decode(packets._encoder.encode(message), "supervisor") == message
    for answer in (sharing.Given(1, b"t", 2), sharing.Taken(1, 0, (1,), 2, 3, b"d", True)):
        assert packets.decode(packets._encoder.encode(answer), "executor") == answer
