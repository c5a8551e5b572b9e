"""Memory and events of the software GPU that other processes have too; here a second driver stands for them."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from softgpu_session import DEADLINE, Session, connected

from migproxy.softgpu import shared
from migproxy.softgpu.card import MIB, CardSpec
from migproxy.softgpu.shared_events import SharedEvent

GRANULE = 2 * MIB
PLAIN = struct.pack("<IIIiQQ", 1, 0, 1, 0, 0, 0)
PROP = struct.pack("<IIIiQQ", 1, 1, 1, 0, 0, 0)
ACCESS = struct.pack("<IiI", 1, 0, 3)
INTERPROCESS = 6


@pytest.fixture
def other() -> Iterator[Session]:
    made = connected()
    yield made
    made.cuda.cuDevicePrimaryCtxReset(0)


def create(session: Session, prop: bytes = PROP, size: int = GRANULE) -> int:
    return session.u64("cuMemCreate", size, session.data(prop), 0)


def mapped(session: Session, handle: int, size: int = GRANULE) -> int:
    base = session.u64("cuMemAddressReserve", size, 0, 0, 0)
    session.ok("cuMemMap", base, size, 0, handle, 0)
    session.ok("cuMemSetAccess", base, size, session.data(ACCESS), 1)
    return base


def export(session: Session, handle: int) -> int:
    return session.i32("cuMemExportToShareableHandle", handle, 1, 0)


def test_two_processes_have_one_memory(session: Session, other: Session) -> None:
    handle = create(session)
    base = mapped(session, handle)
    session.write(base + 12345, b"mine")
    used = other.cuda.devices[0].used
    fd = export(session, handle)
    theirs = other.u64("cuMemImportFromShareableHandle", fd, 1)
    os.close(fd)
    place = mapped(other, theirs)
    assert other.read(place + 12345, 4) == b"mine"
    other.write(place + GRANULE - 4, b"back")
    assert session.read(base + GRANULE - 4, 4) == b"back"
    assert other.cuda.devices[0].used == used + GRANULE
    session.ok("cuMemUnmap", base, GRANULE)
    session.ok("cuMemRelease", handle)
    assert other.read(place + 12345, 4) == b"mine"
    other.ok("cuMemUnmap", place, GRANULE)
    other.ok("cuMemRelease", theirs)
    assert other.cuda.devices[0].used == used


@pytest.mark.parametrize("touched", [True, False])
def test_memory_may_be_shared_mapped_or_not_and_moved_later(session: Session, touched: bool) -> None:
    handle = create(session)
    if touched:
        base = mapped(session, handle)
        session.write(base, b"kept")
        session.ok("cuMemUnmap", base, GRANULE)
    os.close(export(session, handle))
    base = mapped(session, handle)
    assert session.read(base, 4) == (b"kept" if touched else bytes(4))
    session.write(base, b"more")
    session.ok("cuMemUnmap", base, GRANULE)
    assert session.read(mapped(session, handle), 4) == b"more"


def test_memory_is_not_moved_while_something_runs(session: Session) -> None:
    handle = create(session)
    base = mapped(session, handle)
    stream = session.stream()
    assert session.launch(session.function("wait"), stream) == 0
    assert session.cuda.cuMemExportToShareableHandle(session.at, handle, 1, 0) == 600
    session.engine.gate.set()
    session.ok("cuStreamSynchronize", stream)
    os.close(export(session, handle))
    session.engine.gate.clear()
    assert session.launch(session.function("wait"), stream) == 0
    os.close(export(session, handle))  # it lies in a file already
    session.engine.gate.set()
    session.ok("cuStreamSynchronize", stream)
    session.write(base, b"x")


def test_what_cannot_be_shared_is_not(session: Session) -> None:
    export_, import_ = session.cuda.cuMemExportToShareableHandle, session.cuda.cuMemImportFromShareableHandle
    assert export_(session.at, create(session, PLAIN), 1, 0) == 1
    assert export_(session.at, create(session), 2, 0) == 1
    assert export_(session.at, 77, 1, 0) == 1
    plain = os.memfd_create("plain")
    os.ftruncate(plain, GRANULE)
    odd = shared.create("odd", 4096)
    reading, writing = os.pipe()
    before = session.cuda.devices[0].used
    for fd in (plain, odd, reading, writing, 987654, -1):
        assert import_(session.at, fd, 1) == 1, fd
    assert session.cuda.devices[0].used == before
    for fd in (plain, odd, reading, writing):
        os.close(fd)


def test_a_full_card_takes_nothing(session: Session) -> None:
    fd = export(session, create(session, size=4 * GRANULE))
    small = connected(CardSpec(memory=2 * GRANULE))
    assert small.cuda.cuMemImportFromShareableHandle(small.at, fd, 1) == 2
    os.close(fd)


def test_nobody_can_shrink_shared_memory(session: Session) -> None:
    fd = export(session, create(session))
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.close(fd)


# -- events ------------------------------------------------------------------------------------------------------------
def shared_event(session: Session, other: Session) -> tuple[int, int]:
    mine = session.event(INTERPROCESS)
    fd = session.cuda.export_event(mine)
    theirs = other.cuda.import_event(fd)
    os.close(fd)
    return mine, theirs


def test_an_event_happens_in_both_processes(session: Session, other: Session) -> None:
    mine, theirs = shared_event(session, other)
    assert other.cuda.cuEventQuery(theirs) == 0  # never recorded
    stream = session.stream()
    assert session.launch(session.function("wait"), stream) == 0
    session.ok("cuEventRecord", mine, stream)
    assert (session.cuda.cuEventQuery(mine), other.cuda.cuEventQuery(theirs)) == (600, 600)
    place = other.alloc(64)
    behind = other.stream()
    other.ok("cuStreamWaitEvent", behind, theirs, 0)
    assert other.launch(other.function("store"), behind, place, 42) == 0
    assert other.cuda.cuStreamQuery(behind) == 600
    waiter = threading.Timer(0.05, session.engine.gate.set)
    waiter.start()
    other.ok("cuEventSynchronize", theirs)
    other.ok("cuStreamSynchronize", behind)
    assert other.read(place, 4) == (42).to_bytes(4, "little")
    assert session.cuda.cuEventQuery(mine) == 0
    waiter.join()
    session.ok("cuEventDestroy", mine)
    other.ok("cuEventRecord", theirs, 0)
    other.ok("cuEventSynchronize", theirs)


def test_only_the_last_record_counts() -> None:
    event = SharedEvent()
    first, last = event.record(), event.record()
    event.reach(first)
    assert event.reached(first)
    assert not event.reached()
    event.reach(last)
    event.reach(first)
    assert event.reached()


def test_a_recorder_that_is_gone_keeps_nobody_waiting() -> None:
    event = SharedEvent()
    child = (
        "import sys; from migproxy.softgpu.shared_events import SharedEvent; "
        "print(SharedEvent(int(sys.argv[1])).record())"
    )
    fd = event.export()
    run = subprocess.run(
        [sys.executable, "-c", child, str(fd)],
        pass_fds=(fd,),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    os.close(fd)
    number = int(run.stdout)
    assert event.last() == number
    assert event.reached()
    event.wait(number)


@pytest.mark.parametrize("pid", [0, 1 << 63, (1 << 64) - 1])
def test_a_page_of_nonsense_does_no_harm(pid: int) -> None:
    event = SharedEvent()
    struct.pack_into("<QQQ", event._page, 0, (1 << 64) - 1, 5, pid)
    assert event.reached()
    event.reach(event.record())


def test_what_is_no_event_is_not_opened(session: Session) -> None:
    plain = session.event(2)
    with pytest.raises(Exception, match="not made for other processes"):
        session.cuda.export_event(plain)
    memory, short = shared.create("memory", GRANULE), os.memfd_create("short")
    os.ftruncate(short, mmap.PAGESIZE)
    for fd in (memory, short):
        with pytest.raises(Exception, match="of no event"):
            session.cuda.import_event(fd)
        os.close(fd)
    assert session.cuda.cuEventCreate(ctypes.addressof(session.out), 4) == 1  # with times


def test_an_event_is_passed_on_by_its_maker_only(session: Session, other: Session) -> None:
    _, theirs = shared_event(session, other)
    with pytest.raises(Exception, match="by that process"):
        other.cuda.export_event(theirs)
