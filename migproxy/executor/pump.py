# ruff: noqa: SIM109 - the small language has no "in"
"""The executor's hot path: takes commands, checks them, calls the driver. Never blocks, needs no interpreter.

Written in the small language of ``arena/machine_unsafe.py``: ``executor/pump_tables.py`` compiles it; run as Python
it is the
readable twin. What it does not do itself (loading modules, creating streams, library calls, every error) it hands to
Python, in order: it returns with the command copied to `COPY`.

`pump` is the address of a state block made by `PumpTables`. Precondition of all functions: `pump` is such an address,
the arena's control segment is mapped at `RING_BASE`, and every pointer in the block is what its comment says. Nothing
read from the arena is used as an address before it was copied and checked.
"""

from __future__ import annotations

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.arena.machine_unsafe import (
    U64,
    External,
    Indirect,
    copy,
    copy_once,
    fence,
    load8,
    load16,
    load32,
    load64,
    load64_acquire,
    pause,
    store8,
    store32,
    store64,
    store64_release,
    time_stamp,
)
from migproxy.executor import flight, repeats

# -- state block ------------------------------------------------------------------------------------------------------
RING_BASE = 0x00  # address of the control segment
TAIL = 0x08  # commands taken
HEAP_START = 0x10  # arena bytes that commands may name: [HEAP_START, HEAP_END)
HEAP_END = 0x18
WINDOW_BASE = 0x20  # device window: [WINDOW_BASE, WINDOW_END)
WINDOW_END = 0x28
MAPPED = 0x30  # address of one byte for each granule of the window: 1 = mapped
STREAMS = 0x38  # address of TABLE_SIZE real streams by handle index, 0 = none
EVENTS = 0x40  # address of TABLE_SIZE real events by handle index, 0 = none
FUNCTIONS = 0x48  # address of TABLE_SIZE addresses of function records by handle index, 0 = none
POINTERS = 0x50  # address of scratch room for MAX_PARAMETERS parameter pointers
SPARE_EVENTS = 0x58  # address of a stack of events that are free for completion records
SPARE_COUNT = 0x60
WAITS = 0x68  # address of WAIT_CAPACITY records (command number, event, issue time and name if it is a copy)
WAIT_COUNT = 0x70
HOST = 0x78  # address of HOST_CAPACITY such records: a queue
HOST_HEAD = 0x80
HOST_TAIL = 0x88
PYTHON_PENDING = 0x90  # 1: Python has completion records of its own, return often
STATUS = 0x98  # out: the driver's status behind REASON_ERROR
STICKY = 0xA0  # 1: the context is dead, everything goes to Python
CAPTURING = 0xA8  # 1: a stream is being captured, waits and copies go to Python
USER_STREAMS = 0xB0  # number of live user streams
FREES = 0xB8  # frees submitted
FREE_QUEUE = 0xC0  # address of HOST_CAPACITY records (0, event): a queue of frees
FREE_HEAD = 0xC8
FREE_TAIL = 0xD0
PYTHON_FREES = 0xD8  # frees that Python still tracks; while there are any, all go to Python
LEASE_WORD = 0xE0  # address of a u32 that must equal LEASE_VALUE for work on the multiprocessors, 0 = no lease needed
LEASE_VALUE = 0xE8
SPIN_TICKS = 0xF0  # how long to look for work before returning, in time-stamp ticks
FAULT = 0xF8  # out: the first error that a completion record found, for Python to note
# counters
LAUNCHES = 0x100
BYTES_HTOD = 0x108
BYTES_DTOH = 0x110
COPIES_HTOD = 0x118
COPIES_DTOH = 0x120
MEMSETS = 0x128
SYNCS = 0x130
EVENT_RECORDS = 0x138
EVENT_WAITS = 0x140
COPIES_DTOD = 0x148
FREE_MARKS = 0x150
LEASE_BEGUN = 0x158  # 1: Python has noted that this turn on the lease has begun
LEASE_COPIES = 0x160  # 1: copies need the lease too
AGAIN = 0x168  # 1: begin with the command in COPY, which was handed to Python and could not be carried out yet
EVENT_KINDS = 0x170  # address of TABLE_SIZE bytes by handle index: how the event in EVENTS was made, EVENT_*
TIMED_EVENTS = 0x178  # address of a stack of events with times, free for the function to create
# driver functions
LAUNCH_KERNEL = 0x180
COPY_HTOD_ASYNC = 0x188
COPY_DTOH_ASYNC = 0x190
COPY_DTOD_ASYNC = 0x198
MEMSET_D8 = 0x1A0
MEMSET_D16 = 0x1A8
MEMSET_D32 = 0x1B0
EVENT_RECORD = 0x1B8
EVENT_QUERY = 0x1C0
STREAM_WAIT_EVENT = 0x1C8
STREAM_QUERY = 0x1D0
TIMED_COUNT = 0x1D8
LENT = 0x1E0  # spare events that are events of the function now
EVENT_QUERIES = 0x1E8  # counter: queries and waits of events
FLIGHT = 0x1F0  # address of the block of ``executor/flight.py``, 0 = no lease, so nothing is marked
OTHER_ESTIMATES = 0x1F8  # address of the estimates of what is no kernel: memsets, copies by direction
PRINTING = 0x200  # 1: kernels may print, and Python sees to it at every wait
REPEATS = 0x208  # address of the table of ``executor/repeats.py``
REPEAT = 0x210  # the record of the library call in hand
STREAM_WAITS = 0x218  # how many of the WAITS ask their stream instead of an event
STREAM_QUERIES = 0x220  # counter
COPY = 0x240  # SLOT_SIZE bytes: the command in hand
STATE_SIZE = COPY + layout.SLOT_SIZE

TABLE_SIZE = 1 << 16
WAIT_CAPACITY = 256
HOST_CAPACITY = 8192
SPARE_CAPACITY = 16384
MAX_PARAMETERS = 1024
RECORD = 32
TIMED_CAPACITY = 64
MAX_LENT = 4096

# -- how an event was made --------------------------------------------------------------------------------------------
EVENT_OTHER = 0  # by Python, and to be ended by Python
EVENT_TIMED = 1  # flags 0: ends on the stack of timed events
EVENT_LENT = 2  # flags 2 (no times): a spare one, ends on the stack of spare ones
EVENT_RECORDED = 0x80  # flag: recorded since it was made; one that was used before must not answer from its former life

#: In a wait's command number: the event is the function's, not a spare one.
OWN_EVENT = 1 << 63
#: In a wait's command number: in the place of the event there is a stream, to which nothing was submitted since.
ASKS_STREAM = 1 << 62

# -- function record: real function, parameter count, parameter bytes, estimates, an offset for each; all u64 ----------
FUNCTION_REAL = 0
FUNCTION_COUNT = 8
FUNCTION_BYTES = 16
FUNCTION_ESTIMATES = 24
FUNCTION_OFFSETS = FUNCTION_ESTIMATES + 8 * flight.BUCKETS

# -- why the pump returned --------------------------------------------------------------------------------------------
REASON_IDLE = 0  # nothing to do: sleep on the bell
REASON_COMMAND = 1  # the command in COPY is Python's
REASON_ERROR = 2  # the command in COPY failed with STATUS
REASON_BAD_HEAD = 3  # the ring's head is not between its tail and one round later
REASON_NAP = 4  # work is on its way: look again soon
REASON_EVENTS = 5  # the stack of spare events is empty; the command in COPY is Python's
REASON_LEASE = 6  # the command in COPY needs the compute lease; set `AGAIN` to go on with it
REASON_FULL = 7  # the command in COPY has to wait until less is on its way; set `AGAIN` to go on with it

NOT_READY = 600
OP_LAUNCH = 1
OP_COPY_HTOD = 2
OP_COPY_DTOH = 3
OP_COPY_DTOD = 4
OP_MEMSET = 5
OP_EVENT_RECORD = 6
OP_STREAM_WAIT_EVENT = 7
OP_STREAM_SYNC = 8
OP_STREAM_QUERY = int(Op.STREAM_QUERY)
OP_EVENT_SYNC = int(Op.EVENT_SYNC)
OP_EVENT_QUERY = int(Op.EVENT_QUERY)
OP_EVENT_CREATE = int(Op.EVENT_CREATE)
OP_EVENT_DESTROY = int(Op.EVENT_DESTROY)
OP_FREE_MARK = 38
OP_LIBRARY_CALL = int(Op.LIBRARY_CALL)
NO_STREAM = (1 << 64) - 1
SYS_FUTEX = 202
FUTEX_WAKE = 1
EVERYONE = 0x7FFFFFFF
#: Commands between two looks at completions while commands keep coming.
STRIDE = 31
PAYLOAD = COPY + layout.PAYLOAD_OFFSET
PARAMS = COPY + layout.LAUNCH_PARAMS_OFFSET
SLOT_STREAM = COPY + 8
# offsets in the launch payload: function, grid, block, shared, flags, parameter bytes
L_GRID = PAYLOAD + 8
L_BLOCK = PAYLOAD + 20
L_SHARED = PAYLOAD + 32
L_FLAGS = PAYLOAD + 36
L_BYTES = PAYLOAD + 40
RING_OFFSET = layout.RING_OFFSET
REPLY_OFFSET = layout.REPLY_OFFSET
REPLY_SIZE = layout.REPLY_SIZE
SLOT_COUNT = layout.SLOT_COUNT
SLOT_SIZE = layout.SLOT_SIZE
INLINE_PAYLOAD = layout.INLINE_PAYLOAD
LAUNCH_SIZE = layout.LAUNCH.size
W_HEAD = layout.HEAD_OFFSET
W_TAIL = layout.TAIL_OFFSET
W_BELL = layout.FUNCTION_BELL_OFFSET
W_SLEEPERS = layout.FUNCTION_SLEEPERS_OFFSET
W_HOST_RETIRED = layout.HOST_RETIRED_OFFSET
W_FREES_RETIRED = layout.FREES_RETIRED_OFFSET
KIND_SHIFT = layout.HANDLE_KIND_SHIFT
INDEX_SHIFT = 64 - layout.HANDLE_KIND_SHIFT
KIND_STREAM = layout.KIND_STREAM
KIND_EVENT = layout.KIND_EVENT
KIND_FUNCTION = layout.KIND_FUNCTION
FLAG_WAIT = layout.FLAG_WAIT
FLAG_SPILLED = layout.FLAG_SPILLED

syscall = External("syscall", "I64(I64, U64, I64, U64, U64)")
launch_kernel = Indirect("I32(U64, U32, U32, U32, U32, U32, U32, U32, U64, U64, U64)")
copy_async = Indirect("I32(U64, U64, U64, U64)")
memset_async = Indirect("I32(U64, U32, U64, U64)")
two_handles = Indirect("I32(U64, U64)")
wait_event = Indirect("I32(U64, U64, U32)")
one_handle = Indirect("I32(U64)")


# -- tables -----------------------------------------------------------------------------------------------------------
def table_entry(table: U64, kind: U64, handle: U64) -> U64:
    """Return what a handle of `kind` names, 0 if it names nothing in the table."""
    index = handle << INDEX_SHIFT >> INDEX_SHIFT
    if handle >> KIND_SHIFT != kind or index >= TABLE_SIZE:
        return 0
    return load64(table + 8 * index)


def real_stream(pump: U64, handle: U64) -> U64:
    """Return the real stream of a wire handle, NO_STREAM if it names none; 0 is the legacy default stream."""
    if handle == 0:
        return 0
    stream = table_entry(load64(pump + STREAMS), KIND_STREAM, handle)
    return stream if stream else NO_STREAM


def in_heap(pump: U64, address: U64, size: U64) -> U64:
    """Tell whether [address, address + size) lies in the arena's heap."""
    end = address + size
    return address >= load64(pump + HEAP_START) and end >= address and end <= load64(pump + HEAP_END)


def is_mapped(pump: U64, address: U64, size: U64) -> U64:
    """Tell whether every granule of [address, address + size) is mapped."""
    base = load64(pump + WINDOW_BASE)
    end = address + size
    if size == 0 or address < base or end < address or end > load64(pump + WINDOW_END):
        return 0
    granule = (address - base) // DEVICE_GRANULE
    last = (end - 1 - base) // DEVICE_GRANULE
    table = load64(pump + MAPPED)
    while granule <= last:
        if load8(table + granule) == 0:
            return 0
        granule += 1
    return 1


# -- replies and completion records -----------------------------------------------------------------------------------
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
    count = load64(pump + WAIT_COUNT)
    if count >= WAIT_CAPACITY:
        return REASON_COMMAND
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
            reply(pump, number & ~(OWN_EVENT | ASKS_STREAM), status)
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
                store64(record, load64(record) & ~ASKS_STREAM)
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


# -- operations -------------------------------------------------------------------------------------------------------
def after_copy(pump: U64, number: U64, flags: U64, stream: U64, name: U64) -> U64:
    """Note the host memory a copy uses; reply once it is done if the function waits."""
    if flags & FLAG_WAIT:
        return add_wait(pump, number, stream, name)
    last = load64(pump + HOST_TAIL)
    event = record_spare(pump, stream)
    if event == 0:
        return REASON_ERROR
    record = load64(pump + HOST) + last % HOST_CAPACITY * RECORD
    store64(record, number)
    store64(record + 8, event)
    store64(record + 16, time_stamp())
    store64(record + 24, name)
    store64(pump + HOST_TAIL, last + 1)
    return 0


def do_copy(pump: U64, number: U64, op: U64, flags: U64, stream: U64) -> U64:
    target = load64(pump + PAYLOAD)
    source = load64(pump + PAYLOAD + 8)
    size = load64(pump + PAYLOAD + 16)
    if op == OP_COPY_DTOD:
        if not (is_mapped(pump, target, size) and is_mapped(pump, source, size)):
            return REASON_COMMAND
        store64(pump + STATUS, copy_async(load64(pump + COPY_DTOD_ASYNC), target, source, size, stream))
        store64(pump + COPIES_DTOD, load64(pump + COPIES_DTOD) + 1)
        return REASON_ERROR if load64(pump + STATUS) else 0
    if load64(pump + HOST_TAIL) - load64(pump + HOST_HEAD) >= HOST_CAPACITY:
        return REASON_COMMAND
    if op == OP_COPY_HTOD:
        if not (in_heap(pump, source, size) and is_mapped(pump, target, size)):
            return REASON_COMMAND
        store64(pump + STATUS, copy_async(load64(pump + COPY_HTOD_ASYNC), target, source, size, stream))
        store64(pump + COPIES_HTOD, load64(pump + COPIES_HTOD) + 1)
        store64(pump + BYTES_HTOD, load64(pump + BYTES_HTOD) + size)
    else:
        if not (in_heap(pump, target, size) and is_mapped(pump, source, size)):
            return REASON_COMMAND
        store64(pump + STATUS, copy_async(load64(pump + COPY_DTOH_ASYNC), target, source, size, stream))
        store64(pump + COPIES_DTOH, load64(pump + COPIES_DTOH) + 1)
        store64(pump + BYTES_DTOH, load64(pump + BYTES_DTOH) + size)
    if load64(pump + STATUS):
        return REASON_ERROR
    name = flight.NAME_HTOD if op == OP_COPY_HTOD else flight.NAME_DTOH
    return after_copy(pump, number, flags, stream, name | size & flight.NAME_BYTES)


def do_memset(pump: U64, stream: U64) -> U64:
    target = load64(pump + PAYLOAD)
    value = load32(pump + PAYLOAD + 8)
    element = load32(pump + PAYLOAD + 12)
    count = load64(pump + PAYLOAD + 16)
    function = load64(pump + MEMSET_D8)
    if element == 2:
        function = load64(pump + MEMSET_D16)
    elif element == 4:
        function = load64(pump + MEMSET_D32)
    elif element != 1:
        return REASON_COMMAND
    if count >> 60 or not is_mapped(pump, target, element * count):
        return REASON_COMMAND
    store64(pump + STATUS, memset_async(function, target, value, count, stream))
    store64(pump + MEMSETS, load64(pump + MEMSETS) + 1)
    return REASON_ERROR if load64(pump + STATUS) else 0


def do_launch(pump: U64, stream: U64, length: U64) -> U64:
    record = table_entry(load64(pump + FUNCTIONS), KIND_FUNCTION, load64(pump + PAYLOAD))
    size = load32(pump + L_BYTES)
    if record == 0 or load32(pump + L_FLAGS) or length < LAUNCH_SIZE + size:
        return REASON_COMMAND
    if size < load64(record + FUNCTION_BYTES):
        return REASON_COMMAND
    count = load64(record + FUNCTION_COUNT)
    pointers = load64(pump + POINTERS)
    index = 0
    while index < count:
        store64(pointers + 8 * index, pump + PARAMS + load64(record + FUNCTION_OFFSETS + 8 * index))
        index += 1
    status = launch_kernel(
        load64(pump + LAUNCH_KERNEL),
        load64(record + FUNCTION_REAL),
        load32(pump + L_GRID),
        load32(pump + L_GRID + 4),
        load32(pump + L_GRID + 8),
        load32(pump + L_BLOCK),
        load32(pump + L_BLOCK + 4),
        load32(pump + L_BLOCK + 8),
        load32(pump + L_SHARED),
        stream,
        pointers,
        0,
    )
    store64(pump + LAUNCHES, load64(pump + LAUNCHES) + 1)
    if status:
        store64(pump + STATUS, status)
        return REASON_ERROR
    return 0


def do_sync(pump: U64, number: U64, stream: U64) -> U64:
    store64(pump + SYNCS, load64(pump + SYNCS) + 1)
    # Most waits find their stream busy, but the cheapest of all, the empty one, needs no event.
    status = one_handle(load64(pump + STREAM_QUERY), stream)
    if status == 0:
        if load64(pump + FLIGHT):
            flight.settle(load64(pump + FLIGHT), stream)
        reply(pump, number, 0)
        return 0
    if status != NOT_READY:
        store64(pump + STATUS, status)
        return REASON_ERROR
    marks = load64(pump + FLIGHT)
    if load64(pump + WAIT_COUNT) < WAIT_CAPACITY and (marks == 0 or load64(marks + flight.LIMIT) == flight.NO_LIMIT):
        # To set an event behind it, and then to ask that, would take longer than many a kernel does.
        store64(pump + STREAM_WAITS, load64(pump + STREAM_WAITS) + 1)
        return wait_for_event(pump, number | ASKS_STREAM, stream)
    if marks and load64(pump + WAIT_COUNT) < WAIT_CAPACITY:
        # The mark behind what is waited for serves the wait too: one event instead of two.
        event = flight.mark_of(marks, stream)
        if event:
            return wait_for_event(pump, number | OWN_EVENT, event)
    return add_wait(pump, number, stream, 0)


def ask_stream(pump: U64, number: U64, stream: U64) -> U64:
    """Answer whether a stream has done all; returns a reason."""
    store64(pump + STREAM_QUERIES, load64(pump + STREAM_QUERIES) + 1)
    status = one_handle(load64(pump + STREAM_QUERY), stream)
    if status == 0 and load64(pump + FLIGHT):
        flight.settle(load64(pump + FLIGHT), stream)
    if status == 0 or status == NOT_READY:
        reply(pump, number, status)
        return 0
    store64(pump + STATUS, status)
    return REASON_ERROR


def do_free_mark(pump: U64) -> U64:
    """Note a free; its addresses may be used again once all work submitted so far has retired."""
    last = load64(pump + FREE_TAIL)
    if load64(pump + USER_STREAMS) or load64(pump + PYTHON_FREES) or last - load64(pump + FREE_HEAD) >= HOST_CAPACITY:
        return REASON_COMMAND
    event = record_spare(pump, 0)
    if event == 0:
        return REASON_ERROR
    record = load64(pump + FREE_QUEUE) + last % HOST_CAPACITY * RECORD
    store64(record + 8, event)
    store64(record + 24, 0)
    store64(pump + FREE_TAIL, last + 1)
    store64(pump + FREE_MARKS, load64(pump + FREE_MARKS) + 1)
    return 0


def create_event(pump: U64, handle: U64, flags: U64) -> U64:
    """Give the function an event that is there already; returns a reason."""
    index = handle << INDEX_SHIFT >> INDEX_SHIFT
    place = load64(pump + EVENTS) + 8 * index
    if handle >> KIND_SHIFT != KIND_EVENT or index == 0 or index >= TABLE_SIZE:
        return REASON_COMMAND
    if load64(place) != 0:
        return REASON_COMMAND
    kind = EVENT_TIMED
    if flags == 0:
        count = load64(pump + TIMED_COUNT)
        if count == 0:
            return REASON_COMMAND
        store64(pump + TIMED_COUNT, count - 1)
        store64(place, load64(load64(pump + TIMED_EVENTS) + 8 * (count - 1)))
    elif flags == 2:
        count = load64(pump + SPARE_COUNT)
        if count < 8 or load64(pump + LENT) >= MAX_LENT:
            return REASON_COMMAND
        kind = EVENT_LENT
        store64(pump + SPARE_COUNT, count - 1)
        store64(pump + LENT, load64(pump + LENT) + 1)
        store64(place, load64(load64(pump + SPARE_EVENTS) + 8 * (count - 1)))
    else:
        return REASON_COMMAND
    store8(load64(pump + EVENT_KINDS) + index, kind)
    return 0


def destroy_event(pump: U64, handle: U64, event: U64) -> U64:
    """Take an event of the function back, to be given again; returns a reason."""
    index = handle << INDEX_SHIFT >> INDEX_SHIFT
    kind = load8(load64(pump + EVENT_KINDS) + index) & ~EVENT_RECORDED
    count = load64(pump + TIMED_COUNT)
    if kind == EVENT_TIMED and count < TIMED_CAPACITY:
        store64(load64(pump + TIMED_EVENTS) + 8 * count, event)
        store64(pump + TIMED_COUNT, count + 1)
    elif kind == EVENT_LENT:
        give_back(pump, event)
        store64(pump + LENT, load64(pump + LENT) - 1)
    else:
        return REASON_COMMAND
    store64(load64(pump + EVENTS) + 8 * index, 0)
    store8(load64(pump + EVENT_KINDS) + index, EVENT_OTHER)
    return 0


def is_fresh(pump: U64, handle: U64) -> U64:
    """Tell whether an event that the pump made has not been recorded yet: it counts as done, and nobody waits for
    it."""
    kind = load8(load64(pump + EVENT_KINDS) + (handle << INDEX_SHIFT >> INDEX_SHIFT))
    return kind != EVENT_OTHER and kind & EVENT_RECORDED == 0


def mark_recorded(pump: U64, handle: U64) -> None:
    place = load64(pump + EVENT_KINDS) + (handle << INDEX_SHIFT >> INDEX_SHIFT)
    kind = load8(place)
    if kind != EVENT_OTHER:
        store8(place, kind | EVENT_RECORDED)


def ask_event(pump: U64, number: U64, op: U64, event: U64) -> U64:
    """Answer whether an event is done, or once it is; returns a reason."""
    store64(pump + EVENT_QUERIES, load64(pump + EVENT_QUERIES) + 1)
    status = one_handle(load64(pump + EVENT_QUERY), event)
    if status == 0 or (status == NOT_READY and op == OP_EVENT_QUERY):
        reply(pump, number, status)
        return 0
    if status != NOT_READY:
        store64(pump + STATUS, status)
        return REASON_ERROR
    if load64(pump + WAIT_COUNT) >= WAIT_CAPACITY:
        return REASON_COMMAND
    return wait_for_event(pump, number | OWN_EVENT, event)


def is_event_op(op: U64) -> U64:
    """Tell whether `do_event` carries the operation out."""
    return op == OP_EVENT_QUERY or op == OP_EVENT_SYNC or op == OP_EVENT_CREATE or op == OP_EVENT_DESTROY


def do_event(pump: U64, number: U64, op: U64) -> U64:
    """Make, end or ask an event; returns a reason."""
    handle = load64(pump + PAYLOAD)
    if op == OP_EVENT_CREATE:
        return create_event(pump, handle, load32(pump + PAYLOAD + 8))
    event = table_entry(load64(pump + EVENTS), KIND_EVENT, handle)
    if event == 0:
        return REASON_COMMAND
    if op == OP_EVENT_DESTROY:
        return destroy_event(pump, handle, event)
    if is_fresh(pump, handle):
        reply(pump, number, 0)
        return 0
    return ask_event(pump, number, op, event)


def needs_lease(pump: U64, op: U64) -> U64:
    """Tell whether one of the operations below needs the slice's lease: it works on the multiprocessors, or copies
    need it too."""
    if load64(pump + LEASE_WORD) == 0:
        return 0
    if op == OP_LAUNCH or op == OP_COPY_DTOD or op == OP_MEMSET or op == OP_LIBRARY_CALL:
        return 1
    return load64(pump + LEASE_COPIES) and (op == OP_COPY_HTOD or op == OP_COPY_DTOH)


def units_of(op: U64, pump: U64) -> U64:
    """Return the size of the work in hand: threads of a launch in warps, bytes of anything else in KiB."""
    if op == OP_LAUNCH:
        blocks = load32(pump + L_GRID) * load32(pump + L_GRID + 4) * load32(pump + L_GRID + 8)
        return blocks * load32(pump + L_BLOCK) * load32(pump + L_BLOCK + 4) * load32(pump + L_BLOCK + 8) >> 5
    if op == OP_LIBRARY_CALL:
        return 0
    if op == OP_MEMSET:
        return load64(pump + PAYLOAD + 16) * load32(pump + PAYLOAD + 12) >> 10
    return load64(pump + PAYLOAD + 16) >> 10


def estimates_of(op: U64, pump: U64) -> U64:
    """Return the address of the estimates for the work in hand, 0 when it is malformed."""
    if op == OP_LIBRARY_CALL:
        return load64(load64(pump + REPEAT) + repeats.ESTIMATES)
    if op == OP_LAUNCH:
        record = table_entry(load64(pump + FUNCTIONS), KIND_FUNCTION, load64(pump + PAYLOAD))
        return record + FUNCTION_ESTIMATES if record else 0
    return load64(pump + OTHER_ESTIMATES) + 8 * flight.BUCKETS * (op & 7)


def replies_later(op: U64) -> U64:
    """Tell whether an operation answers its waiter itself."""
    copies = op == OP_COPY_HTOD or op == OP_COPY_DTOH
    return copies or op == OP_STREAM_SYNC or op == OP_STREAM_QUERY or op == OP_EVENT_QUERY or op == OP_EVENT_SYNC


def carry_out(pump: U64) -> U64:
    """Check and carry out the command in COPY, and answer it; returns a reason, 0 when it is done."""
    reason = execute(pump)
    if reason == 0 and load16(pump + COPY + 2) & FLAG_WAIT and not replies_later(load16(pump + COPY)):
        reply(pump, load64(pump + TAIL) - 1, 0)
    return reason


def execute(pump: U64) -> U64:
    """Check and carry out the command in COPY; returns a reason, 0 when it is done."""
    number = load64(pump + TAIL) - 1
    op = load16(pump + COPY)
    flags = load16(pump + COPY + 2)
    length = load32(pump + COPY + 4)
    if load64(pump + STREAM_WAITS):
        settle_stream_waits(pump)
    if load64(pump + STICKY) or flags & FLAG_SPILLED or length > INLINE_PAYLOAD:
        return REASON_COMMAND
    if load64(pump + CAPTURING) and op != OP_LAUNCH:
        return REASON_COMMAND
    if load64(pump + PRINTING) and flags & FLAG_WAIT:
        return REASON_COMMAND
    if is_event_op(op):
        return do_event(pump, number, op)
    if op == OP_LIBRARY_CALL:
        if flags & FLAG_WAIT or find_repeat(pump, length) == 0:
            return REASON_COMMAND
    elif op == 0 or (op > OP_STREAM_SYNC and op != OP_FREE_MARK and op != OP_STREAM_QUERY):
        return REASON_COMMAND
    if load64(pump + SPARE_COUNT) == 0:
        return REASON_EVENTS
    stream = real_stream(pump, load64(pump + SLOT_STREAM))
    if stream == NO_STREAM:
        return REASON_COMMAND
    if needs_lease(pump, op):
        if load32(load64(pump + LEASE_WORD)) != load64(pump + LEASE_VALUE) or load64(pump + LEASE_BEGUN) == 0:
            return REASON_LEASE
        if load64(pump + CAPTURING) == 0:
            return marked(pump, number, op, flags, length, stream)
    return perform(pump, number, op, flags, length, stream)


def find_repeat(pump: U64, length: U64) -> U64:
    """Find the library call in hand among those that can be repeated; returns its record, 0 if there is none."""
    record = repeats.find(load64(pump + REPEATS), pump + PAYLOAD, length, load64(pump + SLOT_STREAM))
    store64(pump + REPEAT, record)
    return record


def do_repeat(pump: U64, stream: U64) -> U64:
    """Carry out the library call in hand; Python does if it fails, and tells the library's error."""
    record = load64(pump + REPEAT)
    if load64(record + repeats.REAL_STREAM) != stream or repeats.repeat(record):
        return REASON_COMMAND
    return 0


def marked(pump: U64, number: U64, op: U64, flags: U64, length: U64, stream: U64) -> U64:
    """Carry out work on the multiprocessors, if there is room for it on its way; returns a reason."""
    marks = load64(pump + FLIGHT)
    estimates = estimates_of(op, pump)
    if estimates == 0:
        return REASON_COMMAND
    if load64(marks + flight.LIMIT) == flight.NO_LIMIT:
        if flight.is_full(marks):
            return REASON_FULL
        reason = perform(pump, number, op, flags, length, stream)
        if reason == 0:
            store64(pump + STATUS, flight.light(marks, stream, estimates))
            reason = REASON_ERROR if load64(pump + STATUS) else 0
        return reason
    units = units_of(op, pump)
    if flight.has_room(marks, estimates, units) == 0:
        store64(pump + STATUS, flight.mark(marks))
        return REASON_ERROR if load64(pump + STATUS) else REASON_FULL
    store64(pump + STATUS, flight.before(marks, estimates, units, stream))
    if load64(pump + STATUS):
        return REASON_ERROR
    reason = perform(pump, number, op, flags, length, stream)
    if reason:
        return reason
    store64(pump + STATUS, flight.issued(marks, estimates, units, stream))
    return REASON_ERROR if load64(pump + STATUS) else 0


def perform(pump: U64, number: U64, op: U64, flags: U64, length: U64, stream: U64) -> U64:
    """Check and carry out an operation on a real stream; returns a reason, 0 when it is done."""
    if op == OP_LAUNCH:
        return do_launch(pump, stream, length)
    if op == OP_LIBRARY_CALL:
        return do_repeat(pump, stream)
    if op == OP_STREAM_SYNC:
        return do_sync(pump, number, stream)
    if op == OP_STREAM_QUERY:
        return ask_stream(pump, number, stream)
    if op == OP_MEMSET:
        return do_memset(pump, stream)
    if op == OP_FREE_MARK:
        return do_free_mark(pump)
    if op == OP_EVENT_RECORD or op == OP_STREAM_WAIT_EVENT:
        event = table_entry(load64(pump + EVENTS), KIND_EVENT, load64(pump + PAYLOAD))
        if event == 0:
            return REASON_COMMAND
        if op == OP_EVENT_RECORD:
            store64(pump + EVENT_RECORDS, load64(pump + EVENT_RECORDS) + 1)
            store64(pump + STATUS, two_handles(load64(pump + EVENT_RECORD), event, stream))
            mark_recorded(pump, load64(pump + PAYLOAD))
        else:
            store64(pump + EVENT_WAITS, load64(pump + EVENT_WAITS) + 1)
            if is_fresh(pump, load64(pump + PAYLOAD)):
                return 0
            function = load64(pump + STREAM_WAIT_EVENT)
            store64(pump + STATUS, wait_event(function, stream, event, load32(pump + PAYLOAD + 8)))
        return REASON_ERROR if load64(pump + STATUS) else 0
    return do_copy(pump, number, op, flags, stream)


def take(pump: U64) -> U64:
    """Copy the next command to COPY; returns 1, or 0 when there is none, or 2 when the ring's head is impossible."""
    ring = load64(pump + RING_BASE)
    tail = load64(pump + TAIL)
    available = load64_acquire(ring + W_HEAD) - tail
    if available == 0:
        return 0
    if available > SLOT_COUNT:
        return 2
    copy_once(pump + COPY, ring + RING_OFFSET + tail % SLOT_COUNT * SLOT_SIZE, SLOT_SIZE)
    store64(pump + TAIL, tail + 1)
    store64_release(ring + W_TAIL, tail + 1)
    if tail & 255 == 0:
        ring_bell(ring)
    return 1


def must_yield(pump: U64) -> U64:
    """Tell whether this session has begun a turn on the lease and is to end it."""
    word = load64(pump + LEASE_WORD)
    return word != 0 and load64(pump + LEASE_BEGUN) and load32(word) != load64(pump + LEASE_VALUE)


def try_again(pump: U64) -> U64:
    """Carry out the command in COPY, which could not be yet; looks for a while. Returns a reason, 0 when it is done."""
    store64(pump + AGAIN, 0)
    start = time_stamp()
    while 1:
        poll(pump)
        reason = carry_out(pump)
        if reason != REASON_LEASE and reason != REASON_FULL:
            return reason
        if load64(pump + FAULT) or load64(pump + PYTHON_PENDING) or time_stamp() - start > load64(pump + SPIN_TICKS):
            return reason
        if reason == REASON_LEASE:
            # The turn comes, or it ends: both are Python's.
            mine = load32(load64(pump + LEASE_WORD)) == load64(pump + LEASE_VALUE)
            if mine or (must_yield(pump) and in_flight(pump) == 0):
                return reason
        pause()
    return 0


def pump_run(pump: U64) -> U64:
    """Work until there is a reason to return to Python."""
    if load64(pump + AGAIN):
        reason = try_again(pump)
        if reason:
            return reason
    start = time_stamp()
    count = 0
    while 1:
        taken = take(pump)
        if taken == 2:
            return REASON_BAD_HEAD
        if taken:
            reason = carry_out(pump)
            if reason:
                return reason
            count += 1
            if count & STRIDE == 0:
                poll(pump)
                if load64(pump + PYTHON_PENDING) or load64(pump + FAULT):
                    return REASON_NAP
            if outstanding(pump) == 0:
                publish_retired(pump)
            start = time_stamp()
        else:
            busy = in_flight(pump)
            if outstanding(pump) and poll(pump):
                start = time_stamp()
            if load64(pump + FAULT) or (busy and in_flight(pump) == 0 and must_yield(pump)):
                return REASON_NAP
            if time_stamp() - start > load64(pump + SPIN_TICKS):
                publish_retired(pump)
                return REASON_NAP if outstanding(pump) or load64(pump + PYTHON_PENDING) else REASON_IDLE
            pause()
    return REASON_IDLE


FUNCTIONS_COMPILED = (pump_run, carry_out, poll)
