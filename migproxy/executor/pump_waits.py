"""Answers to waits, and the completion records behind them: what the pump polls. Machine code like ``pump.py``.

Precondition of all functions: as of ``pump.py``.
"""

from __future__ import annotations

from migproxy.abi import layout
from migproxy.arena.machine_unsafe import (
    U64,
    External,
    Indirect,
    copy,
    fence,
    load32,
    load64,
    store32,
    store64,
    store64_release,
    time_stamp,
)
from migproxy.executor import flight
from migproxy.executor.pump_block import (
    ASKS_STREAM,
    EVENT_QUERY,
    EVENT_RECORD,
    FAULT,
    FLIGHT,
    FREE_HEAD,
    FREE_QUEUE,
    FREE_TAIL,
    HOST,
    HOST_CAPACITY,
    HOST_HEAD,
    HOST_TAIL,
    LAST_WORK,
    OWN_EVENT,
    REASON_COMMAND,
    REASON_ERROR,
    RECORD,
    RING_BASE,
    SPARE_COUNT,
    SPARE_EVENTS,
    STATUS,
    STREAM_QUERY,
    STREAM_WAITS,
    TAIL,
    TELL_TICKS,
    UNTOLD,
    USER_STREAMS,
    WAIT_CAPACITY,
    WAIT_COUNT,
    WAITS,
    WRITE_VALUE,
)

EVERYONE = 0x7FFFFFFF
FUTEX_WAKE = 1
NOT_READY = 600
#: About 2 µs at the 2 to 4 GHz that time-stamp counters tick with: `have_answered`.
FRESH_TICKS = 4_000
REPLY_OFFSET = layout.REPLY_OFFSET
REPLY_SIZE = layout.REPLY_SIZE
SLOT_COUNT = layout.SLOT_COUNT
SYS_FUTEX = 202
W_BELL = layout.FUNCTION_BELL_OFFSET
W_FREES_RETIRED = layout.FREES_RETIRED_OFFSET
W_HOST_RETIRED = layout.HOST_RETIRED_OFFSET
W_SLEEPERS = layout.FUNCTION_SLEEPERS_OFFSET

one_handle = Indirect("I32(U64)")
syscall = External("syscall", "I64(I64, U64, I64, U64, U64)")
two_handles = Indirect("I32(U64, U64)")
write_value = Indirect("I32(U64, U64, U64, U32)")


def ring_bell(ring: U64) -> None:
    """Tell the function's sleepers that something has changed.

    The fence keeps the look for sleepers behind the bell and what was published: one of the two sides always sees the
    other.
    """
    store32(ring + W_BELL, load32(ring + W_BELL) + 1)
    fence()
    if load32(ring + W_SLEEPERS):
        syscall(SYS_FUTEX, ring + W_BELL, FUTEX_WAKE, EVERYONE, 0)


def reply(pump: U64, number: U64, status: U64) -> None:
    """Answer command `number` with a status and no data."""
    ring = load64(pump + RING_BASE)
    line = ring + REPLY_OFFSET + number % SLOT_COUNT * REPLY_SIZE
    store64(line + 8, status)  # status i32, length u32 = 0
    store64_release(line, number + 1)
    ring_bell(ring)


def have_answered(pump: U64, number: U64, stream: U64) -> None:
    """Have the device itself answer command `number` once it has done what the real stream holds.

    The device's store into the reply line is what a function sees that has not gone to sleep; who sleeps is woken by
    this process, which finds out as it always does and answers once more, with the same words. So nothing depends on
    the store: where the driver refuses it, or the stream never gets there, waits take the longer way.

    The second answer must not come when the line is another command's. It cannot: the line is used again SLOT_COUNT
    commands later, and before another wait is answered the pump has looked at this one. Where one of another
    thread is still open for the same line, this one is not announced.

    Only while the function has no streams of its own: a store in the legacy default stream, or in a stream that it
    synchronises with, would wait for work in the others that the function does not wait for.

    A store that comes to a device which has just finished takes longer than to ask. So it is sent at once only right
    behind the work (`is_fresh_work`), else when asking has gone on for a while.
    """
    function = load64(pump + WRITE_VALUE)
    if function == 0 or load64(pump + USER_STREAMS):
        return
    index = 0
    waits = load64(pump + WAITS)
    while index < load64(pump + WAIT_COUNT):
        other = load64(waits + index * RECORD) & ~(OWN_EVENT | ASKS_STREAM | UNTOLD)
        if other != number and (other ^ number) % SLOT_COUNT == 0:
            return
        index += 1
    line = load64(pump + RING_BASE) + REPLY_OFFSET + number % SLOT_COUNT * REPLY_SIZE
    store64(line + 8, 0)
    if write_value(function, stream, line, number + 1, 0):
        store64(pump + WRITE_VALUE, 0)


def is_fresh_work(pump: U64) -> U64:
    """Tell whether work was issued so lately that the device cannot have done it."""
    return time_stamp() < load64(pump + LAST_WORK) + FRESH_TICKS


def record_spare(pump: U64, stream: U64) -> U64:
    """Record a spare event on a real stream and return it; 0 when it failed (status in STATUS) or there is none."""
    count = load64(pump + SPARE_COUNT) - 1
    event = load64(load64(pump + SPARE_EVENTS) + 8 * count)
    status = two_handles(load64(pump + EVENT_RECORD), event, stream)
    if status:
        store64(pump + STATUS, status)
        return 0
    store64(pump + SPARE_COUNT, count)
    return event


def give_back(pump: U64, event: U64) -> None:
    """Put a completion record's event back on the stack."""
    count = load64(pump + SPARE_COUNT)
    store64(load64(pump + SPARE_EVENTS) + 8 * count, event)
    store64(pump + SPARE_COUNT, count + 1)


def add_wait(pump: U64, number: U64, stream: U64, name: U64) -> U64:
    """Reply to `number` once the work submitted so far to the real stream is done; returns a reason.

    `name` is what the trace calls the copy that is waited for; 0: it is none.
    """
    if load64(pump + WAIT_COUNT) >= WAIT_CAPACITY:
        return REASON_COMMAND
    have_answered(pump, number, stream)
    return set_wait(pump, number, stream, name)


def set_wait(pump: U64, number: U64, stream: U64, name: U64) -> U64:
    """`add_wait`, of which the device knows. Precondition: there is room for a wait."""
    count = load64(pump + WAIT_COUNT)
    event = record_spare(pump, stream)
    if event == 0:
        return REASON_ERROR
    record = load64(pump + WAITS) + count * RECORD
    store64(record, number)
    store64(record + 8, event)
    store64(record + 16, time_stamp())
    store64(record + 24, name)
    store64(pump + WAIT_COUNT, count + 1)
    return 0


def wait_for_event(pump: U64, number: U64, event: U64) -> U64:
    """Reply once an event is done that stays whose it is, or a stream; returns 0. Precondition: there is room for a
    wait, and `number` has the flag OWN_EVENT, or ASKS_STREAM."""
    count = load64(pump + WAIT_COUNT)
    record = load64(pump + WAITS) + count * RECORD
    store64(record, number)
    store64(record + 8, event)
    store64(record + 16, time_stamp())
    store64(record + 24, 0)
    store64(pump + WAIT_COUNT, count + 1)
    return 0


def note_fault(pump: U64, status: U64) -> None:
    """Keep the first error of completion records until Python has noted it."""
    if load64(pump + FAULT) == 0:
        store64(pump + FAULT, status)


def note_copied(pump: U64, record: U64) -> None:
    """Tell the trace of a copy that is done."""
    if load64(pump + FLIGHT) and load64(record + 24):
        flight.copied(load64(pump + FLIGHT), load64(record + 24), load64(record + 16))


def poll_waits(pump: U64) -> U64:
    """Answer the waits whose events are done; returns how many."""
    done = 0
    index = 0
    waits = load64(pump + WAITS)
    while index < load64(pump + WAIT_COUNT):
        record = waits + index * RECORD
        number = load64(record)
        event = load64(record + 8)
        asked = load64(pump + STREAM_QUERY if number & ASKS_STREAM else pump + EVENT_QUERY)
        status = one_handle(asked, event)
        if status == NOT_READY:
            if number & UNTOLD and time_stamp() - load64(record + 16) > load64(pump + TELL_TICKS):
                store64(record, number & ~UNTOLD)
                have_answered(pump, number & ~(ASKS_STREAM | UNTOLD), event)
            index += 1
        else:
            note_copied(pump, record)
            copy(record, waits + (load64(pump + WAIT_COUNT) - 1) * RECORD, RECORD)
            store64(pump + WAIT_COUNT, load64(pump + WAIT_COUNT) - 1)
            if number & ASKS_STREAM:
                store64(pump + STREAM_WAITS, load64(pump + STREAM_WAITS) - 1)
                if load64(pump + FLIGHT) and status == 0:
                    flight.settle(load64(pump + FLIGHT), event)
            elif number & OWN_EVENT == 0:
                give_back(pump, event)
            if status:
                note_fault(pump, status)
            reply(pump, number & ~(OWN_EVENT | ASKS_STREAM | UNTOLD), status)
            done += 1
    return done


def settle_stream_waits(pump: U64) -> None:
    """More is submitted: the waits that ask their stream get an event behind what they wait for.

    While there is no spare event they go on asking, which can only take longer.
    """
    index = 0
    waits = load64(pump + WAITS)
    while index < load64(pump + WAIT_COUNT):
        record = waits + index * RECORD
        if load64(record) & ASKS_STREAM and load64(pump + SPARE_COUNT) > 1:
            event = record_spare(pump, load64(record + 8))
            if event:
                store64(record, load64(record) & ~(ASKS_STREAM | UNTOLD))
                store64(record + 8, event)
                store64(pump + STREAM_WAITS, load64(pump + STREAM_WAITS) - 1)
        index += 1


def poll_queue(pump: U64, queue: U64, head: U64) -> U64:
    """Take finished records off the front of a queue; `queue` and `head` are offsets in the block. Returns how many."""
    done = 0
    busy = 1
    while busy:
        first = load64(pump + head)
        if first == load64(pump + head + 8):
            busy = 0
        else:
            record = load64(pump + queue) + first % HOST_CAPACITY * RECORD
            event = load64(record + 8)
            status = one_handle(load64(pump + EVENT_QUERY), event)
            if status == NOT_READY:
                busy = 0
            else:
                if status:
                    note_fault(pump, status)
                note_copied(pump, record)
                give_back(pump, event)
                store64(pump + head, first + 1)
                done += 1
    return done


def publish_retired(pump: U64) -> None:
    """Publish below which command number host memory is free again."""
    ring = load64(pump + RING_BASE)
    first = load64(pump + HOST_HEAD)
    retired = load64(pump + TAIL)
    if first != load64(pump + HOST_TAIL):
        retired = load64(load64(pump + HOST) + first % HOST_CAPACITY * RECORD)
    if load64(ring + W_HOST_RETIRED) != retired:
        store64_release(ring + W_HOST_RETIRED, retired)
        ring_bell(ring)


def poll_flight(pump: U64) -> U64:
    """Look at the marks behind work on the multiprocessors; returns how many were reached."""
    marks = load64(pump + FLIGHT)
    if marks == 0:
        return 0
    before = load64(marks + flight.HEAD)
    if before == load64(marks + flight.TAIL):
        return 0
    status = flight.poll_marks(marks)
    if status:
        note_fault(pump, status)
    return load64(marks + flight.HEAD) - before


def in_flight(pump: U64) -> U64:
    """Tell whether work on the multiprocessors is on its way, as far as it is marked."""
    marks = load64(pump + FLIGHT)
    return marks != 0 and load64(marks + flight.HEAD) != load64(marks + flight.TAIL)


def poll(pump: U64) -> U64:
    """Look at every completion record that could be due; returns how many were."""
    done = poll_flight(pump)
    done += poll_waits(pump)
    if load64(pump + HOST_HEAD) != load64(pump + HOST_TAIL):
        done += poll_queue(pump, HOST, HOST_HEAD)
    if load64(pump + FREE_HEAD) != load64(pump + FREE_TAIL):
        freed = poll_queue(pump, FREE_QUEUE, FREE_HEAD)
        if freed:
            ring = load64(pump + RING_BASE)
            store64_release(ring + W_FREES_RETIRED, load64(ring + W_FREES_RETIRED) + freed)
            ring_bell(ring)
            done += freed
    publish_retired(pump)
    return done


def outstanding(pump: U64) -> U64:
    """Tell whether any completion record is open."""
    return (
        load64(pump + WAIT_COUNT) != 0
        or load64(pump + HOST_HEAD) != load64(pump + HOST_TAIL)
        or load64(pump + FREE_HEAD) != load64(pump + FREE_TAIL)
        or in_flight(pump)
    )
