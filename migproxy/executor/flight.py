"""What a session has on its way on the multiprocessors, and for how long: marks behind its work, in the order of issue.

Queued work cannot be recalled, so what is in flight is bounded while others compute on the slice too. The bound is in
time, from measured durations: each kernel has *estimates* by size of its grid, and one that was never measured counts
as the whole bound, so that it goes alone and is measured. A mark is an event behind one command that is long or
unknown, or behind a batch of short ones, which share a mark because an event costs a third of a launch. The marks tell
three things more: when the queue has drained, how long the function used the device, and when (`migproxy trace`).

While nobody else computes on the slice nothing is bounded, and no kernel measured: then a batch goes on until the
stream changes, somebody waits for it or nothing more comes (`light`), for marks would cost a fifth of all launches'
time. Only where it is getting long is it marked: the watchdog sees marks, and many short kernels are no hung one.

Written in the small language of ``arena/machine_unsafe.py``, like ``executor/pump.py``, which calls it. Precondition of
all functions: `flight` is the address of a block made by `FlightTables`; `estimates` is the address of BUCKETS words.
All times are ticks of the time-stamp counter.
"""

from __future__ import annotations

from migproxy.arena.machine_unsafe import U64, Indirect, load64, store64, time_stamp

# -- block ------------------------------------------------------------------------------------------------------------
HEAD = 0x00  # marks that were reached
TAIL = 0x08  # marks that were set
EXPECTED = 0x10  # sum of the estimates behind marks between HEAD and TAIL
LIMIT = 0x18  # how much may be on its way; NO_LIMIT: everything
LAST = 0x20  # when the last mark was seen to be reached
BATCH_COUNT = 0x28  # commands issued since the last mark
BATCH_EXPECTED = 0x30
BATCH_START = 0x38  # when the first of them was issued
BATCH_STREAM = 0x40
BATCH_ESTIMATE = 0x48  # address of the last one's estimate
BATCH_NAME = 0x50  # what the trace calls the batch: the address of the last one's estimates
BUSY = 0x58  # in all, how long work was on its way on the device
SHORT = 0x60  # what takes longer has a mark of its own
UNKNOWN = 0x68  # what counts for work that was never measured
BATCH_FULL = 0x70  # a batch is closed at this sum
RECORDS = 0x78  # address of MARKS records
EVENT_RECORD = 0x80  # driver functions
EVENT_QUERY = 0x88
TRACE = 0x90  # address of TRACE_CAPACITY records (name, start, end, count)
TRACED = 0x98  # how many were written, in all
COPY_END = 0xA0  # when the last copy to the device, and the last one from it, was seen to be done
AHEAD = 0xB0  # what alone is on its way and will be done so soon does not hold up the next
LATE = 0xB8  # what is late by so much may wait for the function itself
LIGHT_MOST = 0xC0  # commands of a batch while nothing is bounded, by what the last ones took
LIGHT_TICKS = 0xC8  # how long such a batch is to take at most
BLOCK_SIZE = 0xD0

MARKS = 512
MARK = 64  # event, estimate of all, issue time, count, address of the estimate, name
MARK_EVENT, MARK_EXPECTED, MARK_START, MARK_COUNT, MARK_ESTIMATE, MARK_NAME = 0, 8, 16, 24, 32, 40
TRACE_CAPACITY = 4096
TRACE_RECORD = 32
BATCH_MOST = 32
#: So many marks at most are set behind one that is late, since the others on the slice wait for all of them.
LATE_MOST = 16
#: Commands of a batch while nothing is bounded: of the first, before anything was measured, and of any.
LIGHT_FIRST, LIGHT_LONGEST = 8, 4096
#: Words of a kernel's estimates; sizes that differ by less than eightfold share one.
BUCKETS = 12
NO_LIMIT = 1 << 62
NOT_READY = 600
#: Names in the trace that are no addresses: copies, with their bytes behind.
NAME_HTOD = 1 << 62
NAME_DTOH = 2 << 62
NAME_BYTES = (1 << 62) - 1

record_event = Indirect("I32(U64, U64)")
query_event = Indirect("I32(U64)")


def bucket(units: U64) -> U64:
    """Return which estimate is for work of so many units: a logarithm to base 8."""
    index = 0
    while units >= 8 and index < BUCKETS - 1:
        units = units >> 3
        index += 1
    return index


def expected(flight: U64, estimate: U64) -> U64:
    """Return how long work is expected to take."""
    known = load64(estimate)
    return known if known else load64(flight + UNKNOWN)


def is_full(flight: U64) -> U64:
    """Tell whether no mark can be set now."""
    return load64(flight + TAIL) - load64(flight + HEAD) >= MARKS


def has_room(flight: U64, estimates: U64, units: U64) -> U64:
    """Tell whether more work may be issued now; one command always may when nothing is on its way."""
    if is_full(flight):
        return 0
    if load64(flight + HEAD) == load64(flight + TAIL) and load64(flight + BATCH_COUNT) == 0:
        return 1
    on_its_way = load64(flight + EXPECTED) + load64(flight + BATCH_EXPECTED)
    if on_its_way + expected(flight, estimates + 8 * bucket(units)) <= load64(flight + LIMIT):
        return 1
    if load64(flight + BATCH_COUNT) != 0:
        return 0
    end = expected_end(flight)
    now = time_stamp()
    on_its_way = load64(flight + TAIL) - load64(flight + HEAD)
    if now >= end:
        # A kernel may wait for what its function does next, on another stream or behind a wait, as natively it can.
        return now - end > load64(flight + LATE) and on_its_way < LATE_MOST
    # The device need not rest between two long ones. Only one that is not late yet, and alone: were the estimates
    # wrong, more and more would get on its way.
    return on_its_way == 1 and end - now <= load64(flight + AHEAD)


def mark(flight: U64) -> U64:
    """Set a mark behind the batch, if there is one; returns a CUresult."""
    count = load64(flight + BATCH_COUNT)
    if count == 0 or is_full(flight):
        return 0
    last = load64(flight + TAIL)
    record = load64(flight + RECORDS) + last % MARKS * MARK
    store64(flight + BATCH_COUNT, 0)
    status = record_event(load64(flight + EVENT_RECORD), load64(record + MARK_EVENT), load64(flight + BATCH_STREAM))
    if status:
        store64(flight + BATCH_EXPECTED, 0)
        return status
    store64(record + MARK_EXPECTED, load64(flight + BATCH_EXPECTED))
    store64(record + MARK_START, load64(flight + BATCH_START))
    store64(record + MARK_COUNT, count)
    store64(record + MARK_ESTIMATE, load64(flight + BATCH_ESTIMATE))
    store64(record + MARK_NAME, load64(flight + BATCH_NAME))
    store64(flight + EXPECTED, load64(flight + EXPECTED) + load64(flight + BATCH_EXPECTED))
    store64(flight + BATCH_EXPECTED, 0)
    store64(flight + TAIL, last + 1)
    return 0


def before(flight: U64, estimates: U64, units: U64, stream: U64) -> U64:
    """Close the batch if what is issued next does not belong to it; returns a CUresult."""
    if load64(flight + BATCH_COUNT) == 0:
        return 0
    known = load64(estimates + 8 * bucket(units))
    if load64(flight + BATCH_STREAM) != stream or known == 0 or known > load64(flight + SHORT):
        return mark(flight)
    return 0


def issued(flight: U64, estimates: U64, units: U64, stream: U64) -> U64:
    """Note that work was issued to a real stream, `before` first; returns a CUresult. Precondition: `has_room`."""
    estimate = estimates + 8 * bucket(units)
    known = load64(estimate)
    if load64(flight + BATCH_COUNT) == 0:
        store64(flight + BATCH_START, time_stamp())
        store64(flight + BATCH_STREAM, stream)
    store64(flight + BATCH_COUNT, load64(flight + BATCH_COUNT) + 1)
    store64(flight + BATCH_EXPECTED, load64(flight + BATCH_EXPECTED) + expected(flight, estimate))
    store64(flight + BATCH_ESTIMATE, estimate)
    store64(flight + BATCH_NAME, estimates)
    alone = known == 0 or known > load64(flight + SHORT)
    full = load64(flight + BATCH_EXPECTED) >= load64(flight + BATCH_FULL)
    if alone or full or load64(flight + BATCH_COUNT) >= BATCH_MOST:
        return mark(flight)
    return 0


def light(flight: U64, stream: U64, name: U64) -> U64:
    """Note work that was issued to a real stream while nothing is bounded; returns a CUresult.

    Precondition: not `is_full`.
    """
    if load64(flight + BATCH_COUNT) != 0 and load64(flight + BATCH_STREAM) != stream:
        status = mark(flight)
        if status:
            return status
    if load64(flight + BATCH_COUNT) == 0:
        store64(flight + BATCH_START, time_stamp())
        store64(flight + BATCH_STREAM, stream)
    store64(flight + BATCH_COUNT, load64(flight + BATCH_COUNT) + 1)
    store64(flight + BATCH_ESTIMATE, 0)
    store64(flight + BATCH_NAME, name)
    if load64(flight + BATCH_COUNT) >= load64(flight + LIGHT_MOST):
        return mark(flight)
    return 0


def adapt(flight: U64, took: U64, count: U64) -> None:
    """A batch of `count` commands, made while nothing was bounded, took so long: see how many the next may have."""
    fit = count * load64(flight + LIGHT_TICKS) // later(took, 1)
    fit = fit if fit < LIGHT_LONGEST else LIGHT_LONGEST
    store64(flight + LIGHT_MOST, later(fit, 1))


def mark_of(flight: U64, stream: U64) -> U64:
    """Set a mark behind the batch if it is a real stream's; returns the mark's event, 0 if there is none."""
    last = load64(flight + TAIL)
    if load64(flight + BATCH_COUNT) == 0 or load64(flight + BATCH_STREAM) != stream:
        return 0
    status = mark(flight)
    if status != 0 or load64(flight + TAIL) == last:
        return 0
    return load64(load64(flight + RECORDS) + last % MARKS * MARK + MARK_EVENT)


def settle(flight: U64, stream: U64) -> None:
    """A real stream was seen to be idle: its batch is done, without a mark."""
    count = load64(flight + BATCH_COUNT)
    if count == 0 or load64(flight + BATCH_STREAM) != stream or load64(flight + HEAD) != load64(flight + TAIL):
        return
    now = time_stamp()
    start = later(load64(flight + BATCH_START), load64(flight + LAST))
    store64(flight + LAST, now)
    store64(flight + BUSY, load64(flight + BUSY) + now - start)
    store64(flight + BATCH_COUNT, 0)
    store64(flight + BATCH_EXPECTED, 0)
    trace(flight, load64(flight + BATCH_NAME), start, now, count)
    if load64(flight + BATCH_ESTIMATE) == 0:
        adapt(flight, now - start, count)


def learn(estimate: U64, took: U64) -> None:
    """Enter a measured duration: up at once, down by a quarter of the difference."""
    known = load64(estimate)
    if took >= known:
        store64(estimate, took)
    else:
        store64(estimate, (3 * known + took) // 4)


def trace(flight: U64, name: U64, start: U64, end: U64, count: U64) -> None:
    """Keep something for the trace."""
    number = load64(flight + TRACED)
    record = load64(flight + TRACE) + number % TRACE_CAPACITY * TRACE_RECORD
    store64(record, name)
    store64(record + 8, start)
    store64(record + 16, end)
    store64(record + 24, count)
    store64(flight + TRACED, number + 1)


def later(one: U64, other: U64) -> U64:
    """Return the later of two times."""
    return one if one > other else other


def poll_marks(flight: U64) -> U64:
    """Take the marks that were reached off the front; returns a CUresult, the last one's that failed."""
    failed = 0
    busy = 1
    while busy:
        first = load64(flight + HEAD)
        if first == load64(flight + TAIL):
            busy = 0
        else:
            record = load64(flight + RECORDS) + first % MARKS * MARK
            status = query_event(load64(flight + EVENT_QUERY), load64(record + MARK_EVENT))
            if status == NOT_READY:
                busy = 0
            else:
                failed = status if status else failed
                now = time_stamp()
                start = later(load64(record + MARK_START), load64(flight + LAST))
                took = now - start
                count = load64(record + MARK_COUNT)
                store64(flight + LAST, now)
                store64(flight + BUSY, load64(flight + BUSY) + took)
                trace(flight, load64(record + MARK_NAME), start, now, count)
                # Of a batch only the mean is known; it must not talk down what the last one is known to take.
                each = took // count
                estimate = load64(record + MARK_ESTIMATE)
                if estimate == 0:
                    adapt(flight, took, count)
                elif count == 1 or each > load64(estimate):
                    learn(estimate, later(each, 1))
                store64(flight + EXPECTED, load64(flight + EXPECTED) - load64(record + MARK_EXPECTED))
                store64(flight + HEAD, first + 1)
    return failed


def expected_end(flight: U64) -> U64:
    """Return when what has a mark is expected to be done; 0: nothing has."""
    first = load64(flight + HEAD)
    if first == load64(flight + TAIL):
        return 0
    start = load64(load64(flight + RECORDS) + first % MARKS * MARK + MARK_START)
    return later(start, load64(flight + LAST)) + load64(flight + EXPECTED)


def copied(flight: U64, name: U64, issue: U64) -> None:
    """Note for the trace that a copy, issued at a time, is seen to be done."""
    place = flight + COPY_END + 8 * (name >> 63)
    now = time_stamp()
    trace(flight, name, later(issue, load64(place)), now, 1)
    store64(place, now)


def read_time_stamp(_unused: U64) -> U64:
    """Return the time-stamp counter."""
    return time_stamp()


FUNCTIONS_COMPILED = (has_room, is_full, mark, before, issued, light, poll_marks, expected_end, read_time_stamp)
