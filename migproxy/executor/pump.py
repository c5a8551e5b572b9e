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
    Indirect,
    copy_once,
    load8,
    load16,
    load32,
    load64,
    load64_acquire,
    pause,
    store8,
    store64,
    store64_release,
    time_stamp,
)
from migproxy.executor import flight, repeats
from migproxy.executor.pump_block import (
    AGAIN,
    ASKS_STREAM,
    BYTES_DTOH,
    BYTES_HTOD,
    CAPTURING,
    COPIES_DTOD,
    COPIES_DTOH,
    COPIES_HTOD,
    COPY,
    COPY_DTOD_ASYNC,
    COPY_DTOH_ASYNC,
    COPY_HTOD_ASYNC,
    EVENT_KINDS,
    EVENT_LENT,
    EVENT_OTHER,
    EVENT_QUERIES,
    EVENT_QUERY,
    EVENT_RECORD,
    EVENT_RECORDED,
    EVENT_RECORDS,
    EVENT_TIMED,
    EVENT_WAITS,
    EVENTS,
    FAULT,
    FLIGHT,
    FREE_HEAD,
    FREE_MARKS,
    FREE_QUEUE,
    FREE_TAIL,
    FUNCTION_BYTES,
    FUNCTION_COUNT,
    FUNCTION_ESTIMATES,
    FUNCTION_OFFSETS,
    FUNCTION_REAL,
    FUNCTIONS,
    HEAP_END,
    HEAP_START,
    HOST,
    HOST_CAPACITY,
    HOST_HEAD,
    HOST_TAIL,
    LAST_WORK,
    LAUNCH_KERNEL,
    LAUNCHES,
    LEASE_BEGUN,
    LEASE_COPIES,
    LEASE_VALUE,
    LEASE_WORD,
    LENT,
    LONG_TICKS,
    MAPPED,
    MAX_LENT,
    MEMSET_D8,
    MEMSET_D16,
    MEMSET_D32,
    MEMSETS,
    OTHER_ESTIMATES,
    OWN_EVENT,
    POINTERS,
    PRINTING,
    PYTHON_FREES,
    PYTHON_PENDING,
    REASON_BAD_HEAD,
    REASON_COMMAND,
    REASON_ERROR,
    REASON_EVENTS,
    REASON_FULL,
    REASON_IDLE,
    REASON_LEASE,
    REASON_NAP,
    RECORD,
    REPEAT,
    REPEATS,
    RESTED,
    RING_BASE,
    SPARE_COUNT,
    SPARE_EVENTS,
    SPIN_TICKS,
    STATUS,
    STICKY,
    STREAM_QUERIES,
    STREAM_QUERY,
    STREAM_WAIT_EVENT,
    STREAM_WAITS,
    STREAMS,
    SYNCS,
    TABLE_SIZE,
    TAIL,
    TIMED_CAPACITY,
    TIMED_COUNT,
    TIMED_EVENTS,
    UNTOLD,
    USER_STREAMS,
    WAIT_CAPACITY,
    WAIT_COUNT,
    WINDOW_BASE,
    WINDOW_END,
)
from migproxy.executor.pump_waits import (
    NOT_READY,
    SLOT_COUNT,
    add_wait,
    give_back,
    have_answered,
    in_flight,
    is_fresh_work,
    one_handle,
    outstanding,
    poll,
    poll_waits,
    publish_retired,
    record_spare,
    reply,
    ring_bell,
    set_wait,
    settle_stream_waits,
    two_handles,
    wait_for_event,
)

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
SLOT_SIZE = layout.SLOT_SIZE
INLINE_PAYLOAD = layout.INLINE_PAYLOAD
LAUNCH_SIZE = layout.LAUNCH.size
W_HEAD = layout.HEAD_OFFSET
W_TAIL = layout.TAIL_OFFSET
KIND_SHIFT = layout.HANDLE_KIND_SHIFT
INDEX_SHIFT = 64 - layout.HANDLE_KIND_SHIFT
KIND_STREAM = layout.KIND_STREAM
KIND_EVENT = layout.KIND_EVENT
KIND_FUNCTION = layout.KIND_FUNCTION
FLAG_WAIT = layout.FLAG_WAIT
FLAG_SPILLED = layout.FLAG_SPILLED

launch_kernel = Indirect("I32(U64, U32, U32, U32, U32, U32, U32, U32, U64, U64, U64)")
copy_async = Indirect("I32(U64, U64, U64, U64)")
memset_async = Indirect("I32(U64, U32, U64, U64)")
wait_event = Indirect("I32(U64, U64, U32)")


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
    store64(pump + LAST_WORK, time_stamp())
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
        if is_fresh_work(pump):
            have_answered(pump, number, stream)
            return wait_for_event(pump, number | ASKS_STREAM, stream)
        return wait_for_event(pump, number | ASKS_STREAM | UNTOLD, stream)
    if load64(pump + WAIT_COUNT) >= WAIT_CAPACITY:
        return REASON_COMMAND
    if is_fresh_work(pump):
        have_answered(pump, number, stream)
    # The mark behind what is waited for serves the wait too: one event instead of two.
    event = flight.mark_of(marks, stream) if marks else 0
    if event:
        return wait_for_event(pump, number | OWN_EVENT, event)
    return set_wait(pump, number, stream, 0)


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
        # Who was answered by the device goes on before this process has seen that it could.
        poll_waits(pump)
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
    store64(pump + LAST_WORK, time_stamp())
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


def looking(pump: U64) -> U64:
    """Return for how long to look for what comes next, in ticks.

    A neighbour's turn, and Python's completion records, are seen to between two looks. With neither, one whom somebody
    waits for need not rest at once: its sleep, and its waking, would be added to what is waited for. After that long a
    look, rests tell how long the rest takes, and looks between them are short.
    """
    usual = load64(pump + SPIN_TICKS)
    if load64(pump + WAIT_COUNT) == 0 or load64(pump + PYTHON_PENDING):
        return usual
    marks = load64(pump + FLIGHT)
    if marks and load64(marks + flight.LIMIT) != flight.NO_LIMIT:
        return usual
    return usual >> 3 if load64(pump + RESTED) else load64(pump + LONG_TICKS)


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
            store64(pump + RESTED, 0)
            start = time_stamp()
        else:
            busy = in_flight(pump)
            if outstanding(pump) and poll(pump):
                store64(pump + RESTED, 0)
                start = time_stamp()
            if load64(pump + FAULT) or (busy and in_flight(pump) == 0 and must_yield(pump)):
                return REASON_NAP
            if time_stamp() - start > looking(pump):
                publish_retired(pump)
                return REASON_NAP if outstanding(pump) or load64(pump + PYTHON_PENDING) else REASON_IDLE
            pause()
    return REASON_IDLE


FUNCTIONS_COMPILED = (pump_run, carry_out, poll)
