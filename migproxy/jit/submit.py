"""The function's hot path: commands go into the ring without the interpreter.

Written in the small language, next to the readable `migproxy.arena.ring.Producer`, with which it shares bytes and
rules; the tests hold both against each other. Everything unusual (a full ring, a dead context, an unknown handle,
parameters that do not fit a slot, limits that are exceeded) is left to Python: the functions here only do what
succeeds, and say `LATER` otherwise, having changed nothing.

`producer` is the address of a state block made by ``fast_path.FastProducer``. Precondition of all functions: it is
one, and the arena's control segment is mapped at its `BASE`.
"""

from __future__ import annotations

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.arena.heap_unsafe import heap_allocate, heap_free, heap_lock, heap_owns, heap_unlock
from migproxy.arena.machine_unsafe import (
    U64,
    External,
    add64,
    copy,
    fence,
    load8,
    load32,
    load32_acquire,
    load64,
    load64_acquire,
    pause,
    store8,
    store16,
    store32,
    store64,
    store64_release,
    time_stamp,
)

# -- state block: the lock is where a heap's lock is, so that the same functions take it ------------------------------
LOCK = 0x00  # u32
BASE = 0x08  # address of the control segment
LOST = 0x10  # not 0: the session is known to be lost
OWNERS = 0x18  # address of SLOT_COUNT words, as in `Producer`
SPIN = 0x20  # time-stamp ticks to look for a reply before Python sleeps
FUNCTIONS = 0x38  # address of TABLE_SIZE addresses of function records by handle index, 0 = none
RANGES = 0x40  # address of RANGE_COUNT records: start and end of a device allocation
HEAP = 0x48  # address of the heap's state block
PINNED_COUNT = 0x50  # blocks of page-locked memory in PINNED
PINNED = 0x58  # address of MAX_PINNED records: start and end
RETIRING = 0x60  # address of RETIRING_COUNT records: command number, heap block to free once it has retired
RETIRING_HEAD = 0x68
RETIRING_TAIL = 0x70
CAPTURING = 0x78  # streams being captured: copies and memsets go to Python
# launch limits
MAX_BLOCK = 0x80  # 3 words: x, y, z
MAX_GRID = 0x98  # 3 words
MAX_THREADS = 0xB0
# counters
SUBMITTED = 0x100
WAITED = 0x150  # time-stamp ticks that machine code looked for replies
DRAINED = 0x158  # number + 1 of a command whose good reply said that its stream had nothing left to do
STREAMS = 0x110  # address of TABLE_SIZE bytes by handle index: 1 = the executor knows the stream
FREE_EVENTS = 0x138  # address of a queue of TABLE_SIZE u32: event numbers to give out next, longest unused first
FREE_EVENTS_HEAD = 0x140
FREE_EVENTS_TAIL = 0x148
WINDOW_BASE = 0x120  # the session's device addresses: [WINDOW_BASE, WINDOW_END)
WINDOW_END = 0x128
FOREIGN = 0x130  # device allocations outside the window, such as module globals
EVENTS = 0x118  # the same of events: their flags + 1
LANDINGS = (
    0x108  # address of SLOT_COUNT records by reply line: staging block of a copy to foreign memory, target, bytes
)
STATE_SIZE = 0x180

TABLE_SIZE = 1 << 16
RANGE_COUNT = 256
RANGE_SHIFT = 21  # one record for each granule, by its low bits
MAX_PINNED = 64
RETIRING_COUNT = 1024
ABANDONED = 1 << 63

# -- function record --------------------------------------------------------------------------------------------------
FUNCTION_HANDLE = 0
FUNCTION_WIRE = 8  # the executor's name for it
FUNCTION_COUNT = 16
FUNCTION_BYTES = 24
FUNCTION_THREADS = 32  # most threads of a block
FUNCTION_SHARED = 40  # most dynamic shared bytes
FUNCTION_PARAMETERS = 48  # per parameter: offset u32, size u32

# -- packed launch: handle u64, stream u64, grid and block 6 u32, dynamic shared bytes u64, then the parameters -------
PACKED_FORMAT = "<QQ6IQ"
PACKED_SIZE = 48

DONE = 0
LATER = 1  # nothing was submitted
PENDING = 3  # a query was answered: not ready
ASKED = 2  # submitted, the reply is not good or not there yet: number << 8 | ASKED
BAD_STREAM = 0xFFFF_FFFF_FFFF_FFFF

#: Copies up to this size are staged and return at once, as in ``session.api.copies``.
STAGE_AT_ONCE = 64 << 10

# Plain integers for the small language.
_LAUNCH, _COPY_HTOD, _COPY_DTOH, _COPY_DTOD = int(Op.LAUNCH), int(Op.COPY_HTOD), int(Op.COPY_DTOH), int(Op.COPY_DTOD)
_STREAM_SYNC = int(Op.STREAM_SYNC)
_MEMSET, _EVENT_RECORD, _WAIT_EVENT = int(Op.MEMSET), int(Op.EVENT_RECORD), int(Op.STREAM_WAIT_EVENT)
_LAUNCH_SIZE = layout.LAUNCH.size
_COPY_SIZE, _MEMSET_SIZE, _EVENT_SIZE = layout.COPY.size, layout.MEMSET.size, layout.EVENT.size
_HANDLE_SIZE = layout.HANDLE.size
_MEMORY_HOST, _MEMORY_DEVICE = 1, 2
_NOT_READY = 600  # CUDA_ERROR_NOT_READY
_EVENT_CREATE, _EVENT_DESTROY = int(Op.EVENT_CREATE), int(Op.EVENT_DESTROY)
_CREATE_SIZE = layout.CREATE.size
_EVENT_FLAGS = 3  # blocking, without times
_FUTEX_WAKE = 1
_SYS_FUTEX = 202
_EVERYBODY = 0x7FFFFFFF

system_call = External("syscall", "I64(I64, U64, I32, U32, U64, U64, U32)")
save_thread = External("PyEval_SaveThread", "U64()")
restore_thread = External("PyEval_RestoreThread", "None(U64)")


# -- slots ------------------------------------------------------------------------------------------------------------
def ring_room(producer: U64, number: U64, waits: U64) -> U64:
    """Whether the next slot is free and, if its command waits, the reply line too. The lock is held."""
    base = load64(producer + BASE)
    if number - load64_acquire(base + layout.TAIL_OFFSET) >= layout.SLOT_COUNT:
        return 0
    if waits == 0:
        return 1
    line = number % layout.SLOT_COUNT
    word = load64(producer + OWNERS) + 8 * line
    owner = load64(word)
    reply = load64_acquire(base + layout.REPLY_OFFSET + line * layout.REPLY_SIZE)
    if owner & ABANDONED and reply == owner & ~ABANDONED:
        store64(word, 0)
        owner = 0
    return owner == 0


def ring_begin(producer: U64, waits: U64) -> U64:
    """Take the lock and return the address of the next slot; 0, without the lock, if there is no room."""
    heap_lock(producer)
    base = load64(producer + BASE)
    number = load64(base + layout.HEAD_OFFSET)
    if ring_room(producer, number, waits):
        return base + layout.RING_OFFSET + number % layout.SLOT_COUNT * layout.SLOT_SIZE
    heap_unlock(producer)
    return 0


def hot_begin(producer: U64, waits: U64) -> U64:
    """As `ring_begin`; 0 also if the session is lost, or closed, or its context dead."""
    base = load64(producer + BASE)
    if load64(producer + LOST) or load32_acquire(base + layout.STATE_OFFSET) >= layout.STATE_CLOSED:
        return 0
    return 0 if load32_acquire(base + layout.STICKY_STATUS_OFFSET) else ring_begin(producer, waits)


def ring_publish(producer: U64, waits: U64) -> U64:
    """Publish the slot of `ring_begin`, give the lock back and wake the executor; returns the command's number."""
    base = load64(producer + BASE)
    number = load64(base + layout.HEAD_OFFSET)
    if waits:
        store64(load64(producer + OWNERS) + 8 * (number % layout.SLOT_COUNT), number + 1)
    store64(producer + SUBMITTED, load64(producer + SUBMITTED) + 1)
    store64_release(base + layout.HEAD_OFFSET, number + 1)
    heap_unlock(producer)
    fence()
    bell = base + layout.EXECUTOR_BELL_OFFSET
    if load32_acquire(bell):
        store32(bell, 0)
        system_call(_SYS_FUTEX, bell, _FUTEX_WAKE, _EVERYBODY, 0, 0, 0)
    return number


def slot_header(slot: U64, op: U64, flags: U64, length: U64, stream: U64) -> None:
    store16(slot, op)
    store16(slot + 2, flags)
    store32(slot + 4, length)
    store64(slot + 8, stream)
    store64(slot + 16, 0)
    store64(slot + 24, 0)
    store64(slot + 32, 0)


def ring_submit(producer: U64, source: U64, length: U64, waits: U64) -> U64:
    """Publish a slot whose first `length` bytes lie at `source`. Returns the command's number + 1, or 0: no room."""
    slot = ring_begin(producer, waits)
    if slot == 0:
        return 0
    copy(slot, source, length)
    return ring_publish(producer, waits) + 1


def is_live(table: U64, kind: U64, handle: U64) -> U64:
    """Whether the executor knows a handle of this kind, by a table of bytes."""
    index = handle & layout.HANDLE_INDEX_MASK
    if handle >> layout.HANDLE_KIND_SHIFT != kind or index >= TABLE_SIZE:
        return 0
    return load8(table + index)


def wire_stream(producer: U64, stream: U64) -> U64:
    """The stream as the executor knows it; BAD_STREAM for what Python must look at (per-thread streams, garbage)."""
    if stream <= 1:
        return 0
    return stream if is_live(load64(producer + STREAMS), layout.KIND_STREAM, stream) else BAD_STREAM


# -- launches ---------------------------------------------------------------------------------------------------------
def launch_record(producer: U64, function: U64) -> U64:
    """The record of a kernel that machine code may launch, 0 if Python must look."""
    index = function & layout.HANDLE_INDEX_MASK
    if function >> layout.HANDLE_KIND_SHIFT != layout.KIND_FUNCTION or index >= TABLE_SIZE:
        return 0
    record = load64(load64(producer + FUNCTIONS) + 8 * index)
    if record == 0:
        return 0
    return record if load64(record + FUNCTION_HANDLE) == function else 0


def begin_launch(
    producer: U64,
    record: U64,
    grid_x: U64,
    grid_y: U64,
    grid_z: U64,
    block_x: U64,
    block_y: U64,
    block_z: U64,
    shared: U64,
    wire: U64,
    flags: U64,
) -> U64:
    """Check the limits, take the lock and write a launch into a slot, without its parameters; the slot or 0."""
    # Minus one makes zero the largest number, so that one comparison checks both ends.
    if grid_x - 1 >= load64(producer + MAX_GRID) or grid_y - 1 >= load64(producer + MAX_GRID + 8):
        return 0
    if grid_z - 1 >= load64(producer + MAX_GRID + 16) or block_x - 1 >= load64(producer + MAX_BLOCK):
        return 0
    if block_y - 1 >= load64(producer + MAX_BLOCK + 8) or block_z - 1 >= load64(producer + MAX_BLOCK + 16):
        return 0
    threads = block_x * block_y * block_z
    if threads > load64(producer + MAX_THREADS) or threads > load64(record + FUNCTION_THREADS):
        return 0
    if shared > load64(record + FUNCTION_SHARED):
        return 0
    size = load64(record + FUNCTION_BYTES)
    slot = hot_begin(producer, 0)
    if slot == 0:
        return 0
    slot_header(slot, _LAUNCH, 0, _LAUNCH_SIZE + size, wire)
    payload = slot + layout.PAYLOAD_OFFSET
    store64(payload, load64(record + FUNCTION_WIRE))
    store32(payload + 8, grid_x)
    store32(payload + 12, grid_y)
    store32(payload + 16, grid_z)
    store32(payload + 20, block_x)
    store32(payload + 24, block_y)
    store32(payload + 28, block_z)
    store32(payload + 32, shared)
    store32(payload + 36, flags)
    store32(payload + 40, size)
    store32(payload + 44, 0)
    return slot


def submit_launch(
    producer: U64,
    function: U64,
    grid_x: U64,
    grid_y: U64,
    grid_z: U64,
    block_x: U64,
    block_y: U64,
    block_z: U64,
    shared: U64,
    stream: U64,
    parameters: U64,
    flags: U64,
) -> U64:
    """Launch a kernel: check handle and limits, gather the parameters from ``void *parameters[]``. DONE or LATER."""
    wire = wire_stream(producer, stream)
    record = launch_record(producer, function)
    if wire == BAD_STREAM or record == 0:
        return LATER
    count = load64(record + FUNCTION_COUNT)
    if parameters == 0 and count != 0:
        return LATER
    slot = begin_launch(producer, record, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, wire, flags)
    if slot == 0:
        return LATER
    target = slot + layout.LAUNCH_PARAMS_OFFSET
    entry = record + FUNCTION_PARAMETERS
    for i in range(count):
        source = load64(parameters + 8 * i)
        place = target + load32(entry + 8 * i)
        width = load32(entry + 8 * i + 4)
        if width == 8:
            store64(place, load64(source))
        elif width == 4:
            store32(place, load32(source))
        else:
            copy(place, source, width)
    ring_publish(producer, 0)
    return DONE


def submit_packed(producer: U64, packet: U64, length: U64) -> U64:
    """Launch a kernel whose parameters lie packed behind a `PACKED_FORMAT` header. DONE or LATER."""
    if length < PACKED_SIZE:
        return LATER
    wire = wire_stream(producer, load64(packet + 8))
    record = launch_record(producer, load64(packet))
    if wire == BAD_STREAM or record == 0:
        return LATER
    size = length - PACKED_SIZE
    if size != load64(record + FUNCTION_BYTES):
        return LATER
    slot = begin_launch(
        producer,
        record,
        load32(packet + 16),
        load32(packet + 20),
        load32(packet + 24),
        load32(packet + 28),
        load32(packet + 32),
        load32(packet + 36),
        load64(packet + 40),
        wire,
        0,
    )
    if slot == 0:
        return LATER
    copy(slot + layout.LAUNCH_PARAMS_OFFSET, packet + PACKED_SIZE, size)
    ring_publish(producer, 0)
    return DONE


# -- small commands ---------------------------------------------------------------------------------------------------
def submit_event(producer: U64, op: U64, event: U64, flags: U64, stream: U64) -> U64:
    """Record an event on a stream, or make the stream wait for it. DONE or LATER."""
    wire = wire_stream(producer, stream)
    if wire == BAD_STREAM or is_live(load64(producer + EVENTS), layout.KIND_EVENT, event) == 0:
        return LATER
    slot = hot_begin(producer, 0)
    if slot == 0:
        return LATER
    slot_header(slot, op, 0, _EVENT_SIZE, wire)
    store64(slot + layout.PAYLOAD_OFFSET, event)
    store64(slot + layout.PAYLOAD_OFFSET + 8, flags & 0xFFFFFFFF)
    ring_publish(producer, 0)
    return DONE


def next_event(producer: U64, flags: U64) -> U64:
    """Take an event number and mark it live; its handle, or 0 if all are in use. The lock is held."""
    head = load64(producer + FREE_EVENTS_HEAD)
    while head != load64(producer + FREE_EVENTS_TAIL):
        index = load32(load64(producer + FREE_EVENTS) + 4 * (head % TABLE_SIZE))
        head += 1
        # A forked child may have made an event of its parent's again, under its number.
        if load8(load64(producer + EVENTS) + index) == 0:
            store64(producer + FREE_EVENTS_HEAD, head)
            store8(load64(producer + EVENTS) + index, flags + 1)
            return layout.KIND_EVENT << layout.HANDLE_KIND_SHIFT | index
    store64(producer + FREE_EVENTS_HEAD, head)
    return 0


def free_event(producer: U64, event: U64) -> None:
    """Give an event's number back. The lock is held."""
    index = event & layout.HANDLE_INDEX_MASK
    store8(load64(producer + EVENTS) + index, 0)
    tail = load64(producer + FREE_EVENTS_TAIL)
    store32(load64(producer + FREE_EVENTS) + 4 * (tail % TABLE_SIZE), index)
    store64(producer + FREE_EVENTS_TAIL, tail + 1)


def reserve_event(producer: U64, flags: U64) -> U64:
    """`next_event` with the lock."""
    heap_lock(producer)
    event = next_event(producer, flags)
    heap_unlock(producer)
    return event


def release_event(producer: U64, event: U64) -> None:
    """`free_event` with the lock."""
    heap_lock(producer)
    free_event(producer, event)
    heap_unlock(producer)


def create_event(producer: U64, flags: U64) -> U64:
    """Create an event; its handle, or 0 if Python must."""
    if flags > _EVENT_FLAGS:
        return 0
    slot = hot_begin(producer, 0)
    if slot == 0:
        return 0
    event = next_event(producer, flags)
    if event == 0:
        heap_unlock(producer)
        return 0
    slot_header(slot, _EVENT_CREATE, 0, _CREATE_SIZE, 0)
    store64(slot + layout.PAYLOAD_OFFSET, event)
    store64(slot + layout.PAYLOAD_OFFSET + 8, flags)
    ring_publish(producer, 0)
    return event


def destroy_event(producer: U64, event: U64) -> U64:
    """Destroy an event. DONE or LATER."""
    if is_live(load64(producer + EVENTS), layout.KIND_EVENT, event) == 0:
        return LATER
    slot = hot_begin(producer, 0)
    if slot == 0:
        return LATER
    slot_header(slot, _EVENT_DESTROY, 0, _HANDLE_SIZE, 0)
    store64(slot + layout.PAYLOAD_OFFSET, event)
    free_event(producer, event)
    ring_publish(producer, 0)
    return DONE


def device_range(producer: U64, address: U64, size: U64) -> U64:
    """Whether a range lies inside one allocation that Python has told us of."""
    record = load64(producer + RANGES) + ((address >> RANGE_SHIFT) % RANGE_COUNT) * 16
    start = load64(record)
    end = load64(record + 8)
    return address >= start and address < end and size <= end - address


def submit_memset(producer: U64, target: U64, value: U64, width: U64, count: U64, stream: U64) -> U64:
    """Set `count` elements of `width` bytes. DONE or LATER."""
    wire = wire_stream(producer, stream)
    if count == 0 or count >= 1 << 48 or wire == BAD_STREAM or load64(producer + CAPTURING) != 0:
        return LATER
    if device_range(producer, target, width * count) == 0:
        return LATER
    slot = hot_begin(producer, 0)
    if slot == 0:
        return LATER
    slot_header(slot, _MEMSET, 0, _MEMSET_SIZE, wire)
    store64(slot + layout.PAYLOAD_OFFSET, target)
    store32(slot + layout.PAYLOAD_OFFSET + 8, value)
    store32(slot + layout.PAYLOAD_OFFSET + 12, width)
    store64(slot + layout.PAYLOAD_OFFSET + 16, count)
    ring_publish(producer, 0)
    return DONE


def submit_copy(producer: U64, op: U64, target: U64, source: U64, size: U64, wire: U64, waits: U64) -> U64:
    """Publish a copy command; its number + 1, or 0."""
    slot = hot_begin(producer, waits)
    if slot == 0:
        return 0
    slot_header(slot, op, layout.FLAG_WAIT if waits else 0, _COPY_SIZE, wire)
    store64(slot + layout.PAYLOAD_OFFSET, target)
    store64(slot + layout.PAYLOAD_OFFSET + 8, source)
    store64(slot + layout.PAYLOAD_OFFSET + 16, size)
    return ring_publish(producer, waits) + 1


def copy_on_device(producer: U64, target: U64, source: U64, size: U64, stream: U64) -> U64:
    """Copy device memory to device memory. DONE or LATER."""
    wire = wire_stream(producer, stream)
    if size == 0 or wire == BAD_STREAM or load64(producer + CAPTURING) != 0:
        return LATER
    if device_range(producer, target, size) == 0 or device_range(producer, source, size) == 0:
        return LATER
    return DONE if submit_copy(producer, _COPY_DTOD, target, source, size, wire, 0) else LATER


# -- waiting ----------------------------------------------------------------------------------------------------------
def await_reply(producer: U64, number: U64) -> U64:
    """Look for the reply to command `number` for a while. DONE or PENDING if it says so, else ASKED with the number.

    After DONE the reply line is free again; after ASKED it still belongs to the command, for Python to read.
    """
    base = load64(producer + BASE)
    line = base + layout.REPLY_OFFSET + number % layout.SLOT_COUNT * layout.REPLY_SIZE
    if ring_replied(producer, number) == 0:
        return number << 8 | ASKED
    status = load32(line + 8)
    if status not in (0, _NOT_READY) or load32_acquire(base + layout.DEFERRED_STATUS_OFFSET) != 0:
        return number << 8 | ASKED
    store64(load64(producer + OWNERS) + 8 * (number % layout.SLOT_COUNT), 0)
    return PENDING if status else DONE


def ticks() -> U64:
    """The time-stamp counter, to learn how fast it runs."""
    return time_stamp()


def ring_replied(producer: U64, number: U64) -> U64:
    """Look for the reply to command `number` for SPIN ticks; whether it is there."""
    base = load64(producer + BASE)
    line = base + layout.REPLY_OFFSET + number % layout.SLOT_COUNT * layout.REPLY_SIZE
    if load64_acquire(line) == number + 1:
        return 1
    longest = load64(producer + SPIN)
    start = time_stamp()
    found = 1
    while found != 0 and load64_acquire(line) != number + 1:
        if time_stamp() - start > longest:
            found = 0
        pause()
    add64(producer + WAITED, time_stamp() - start)
    return found


def await_without_gil(producer: U64, number: U64, gil: U64) -> U64:
    """`await_reply`, giving the GIL to other threads meanwhile if `gil` says that it is held."""
    if gil:
        thread = save_thread()
        result = await_reply(producer, number)
        restore_thread(thread)
        return result
    return await_reply(producer, number)


def is_drained(producer: U64, wire: U64) -> U64:
    """Whether the last command of all waited for this very stream, to the end: then there is nothing to wait for.

    One word says which command that was; its slot, which nothing has used again, says for which stream.
    """
    base = load64(producer + BASE)
    head = load64_acquire(base + layout.HEAD_OFFSET)
    if head == 0 or load64_acquire(producer + DRAINED) != head or load64(producer + LOST):
        return 0
    if load32_acquire(base + layout.STATE_OFFSET) >= layout.STATE_CLOSED:
        return 0
    if load32_acquire(base + layout.STICKY_STATUS_OFFSET) or load32_acquire(base + layout.DEFERRED_STATUS_OFFSET):
        return 0
    slot = base + layout.RING_OFFSET + (head - 1) % layout.SLOT_COUNT * layout.SLOT_SIZE
    same = load64(slot + 8) == wire
    # A command published meanwhile may have taken the lap's same slot: then the head says so.
    return same and load64_acquire(base + layout.HEAD_OFFSET) == head


def submit_sync(producer: U64, op: U64, stream: U64, gil: U64) -> U64:
    """Submit a command without payload and wait for its reply. DONE, LATER or ASKED.

    A stream that the last command has waited for needs no command: CuPy synchronises after each copy to the host.
    """
    wire = wire_stream(producer, stream)
    if wire == BAD_STREAM:
        return LATER
    if op == _STREAM_SYNC and is_drained(producer, wire):
        return DONE
    slot = hot_begin(producer, 1)
    if slot == 0:
        return LATER
    slot_header(slot, op, layout.FLAG_WAIT, 0, wire)
    number = ring_publish(producer, 1)
    result = await_without_gil(producer, number, gil)
    if result == DONE and op == _STREAM_SYNC:
        store64_release(producer + DRAINED, number + 1)
    return result


def forget_range(producer: U64, start: U64) -> None:
    """Forget the device allocation that begins at `start`."""
    for i in range(RANGE_COUNT):
        record = load64(producer + RANGES) + 16 * i
        if load64(record) == start:
            store64(record + 8, 0)


def ask_event(producer: U64, op: U64, event: U64, gil: U64) -> U64:
    """Ask about an event, or wait for it. DONE, LATER or ASKED."""
    if is_live(load64(producer + EVENTS), layout.KIND_EVENT, event) == 0:
        return LATER
    slot = hot_begin(producer, 1)
    if slot == 0:
        return LATER
    slot_header(slot, op, layout.FLAG_WAIT, _HANDLE_SIZE, 0)
    store64(slot + layout.PAYLOAD_OFFSET, event)
    return await_without_gil(producer, ring_publish(producer, 1), gil)


# -- copies between host and device -----------------------------------------------------------------------------------
def is_pinned(producer: U64, address: U64) -> U64:
    """Whether a host address lies in a page-locked block; 2 if there are too many to tell."""
    count = load64(producer + PINNED_COUNT)
    if count > MAX_PINNED:
        return 2
    table = load64(producer + PINNED)
    for i in range(count):
        if address >= load64(table + 16 * i) and address < load64(table + 16 * i + 8):
            return 1
    return 0


def memory_type(producer: U64, address: U64) -> U64:
    """The ``cudaMemoryType`` of an address as CuPy's copies should see it, 0 if Python must look.

    Host memory counts as page-locked (1) here whatever it is: `copy_in` takes it before it returns, in place or
    staged, so that CuPy needs no page-locked buffer of its own in between.
    """
    if device_range(producer, address, 1):
        return _MEMORY_DEVICE
    if address >= load64(producer + WINDOW_BASE) and address < load64(producer + WINDOW_END):
        return 0
    if heap_owns(load64(producer + HEAP), address):
        return 0 if is_pinned(producer, address) else _MEMORY_HOST
    return 0 if load64(producer + FOREIGN) else _MEMORY_HOST


def free_retired(producer: U64) -> None:
    """Free the staging blocks whose commands no longer use them."""
    retired = load64_acquire(load64(producer + BASE) + layout.HOST_RETIRED_OFFSET)
    heap_lock(producer)
    head = load64(producer + RETIRING_HEAD)
    while head != load64(producer + RETIRING_TAIL):
        record = load64(producer + RETIRING) + head % RETIRING_COUNT * 16
        if load64(record) >= retired:
            break
        heap_free(load64(producer + HEAP), load64(record + 8))
        head += 1
    store64(producer + RETIRING_HEAD, head)
    heap_unlock(producer)


def copy_in(producer: U64, target: U64, source: U64, size: U64, stream: U64, is_async: U64, gil: U64) -> U64:
    """Copy host memory to the device, as ``session.api.copies.memcpy_htod`` does. DONE, LATER or ASKED."""
    wire = wire_stream(producer, stream)
    if size == 0 or wire == BAD_STREAM or load64(producer + CAPTURING) != 0:
        return LATER
    if device_range(producer, target, size) == 0:
        return LATER
    owned = heap_owns(load64(producer + HEAP), source)
    pinned = is_pinned(producer, source) if owned else 0
    if pinned == 2:
        return LATER
    if pinned and is_async:
        return DONE if submit_copy(producer, _COPY_HTOD, target, source, size, wire, 0) else LATER
    if size <= STAGE_AT_ONCE:
        free_retired(producer)
        if load64(producer + RETIRING_TAIL) - load64(producer + RETIRING_HEAD) > RETIRING_COUNT - 64:
            return LATER
        block = heap_allocate(load64(producer + HEAP), size, 64)
        if block == 0:
            return LATER
        copy(block, source, size)
        number = submit_copy(producer, _COPY_HTOD, target, block, size, wire, 0)
        if number == 0:
            heap_free(load64(producer + HEAP), block)
            return LATER
        heap_lock(producer)
        tail = load64(producer + RETIRING_TAIL)
        record = load64(producer + RETIRING) + tail % RETIRING_COUNT * 16
        store64(record, number - 1)
        store64(record + 8, block)
        store64(producer + RETIRING_TAIL, tail + 1)
        heap_unlock(producer)
        return DONE
    if owned == 0:
        return LATER
    number = submit_copy(producer, _COPY_HTOD, target, source, size, wire, 1)
    return await_without_gil(producer, number - 1, gil) if number else LATER


def note_landing(producer: U64, number: U64, block: U64, target: U64, size: U64) -> None:
    """Note where the bytes of a copy arrive that is not done yet, for who reads its reply."""
    record = load64(producer + LANDINGS) + number % layout.SLOT_COUNT * 24
    store64(record, block)
    store64(record + 8, target)
    store64(record + 16, size)


def copy_out_staged(producer: U64, target: U64, source: U64, size: U64, wire: U64, gil: U64) -> U64:
    """Copy device memory to memory outside the arena through a block of it. DONE, LATER or ASKED.

    After ASKED the block waits in LANDINGS: who reads the reply copies its bytes to their target and frees it.
    """
    block = heap_allocate(load64(producer + HEAP), size, 64)
    if block == 0:
        return LATER
    slot = submit_copy(producer, _COPY_DTOH, block, source, size, wire, 1)
    if slot == 0:
        heap_free(load64(producer + HEAP), block)
        return LATER
    result = await_without_gil(producer, slot - 1, gil)
    if result == DONE:
        store64_release(producer + DRAINED, slot)
        copy(target, block, size)
        heap_free(load64(producer + HEAP), block)
    else:
        note_landing(producer, slot - 1, block, target, size)
    return result


def copy_out(producer: U64, target: U64, source: U64, size: U64, stream: U64, is_async: U64, gil: U64) -> U64:
    """Copy device memory to the host, as ``session.api.copies.memcpy_dtoh`` does. DONE, LATER or ASKED."""
    wire = wire_stream(producer, stream)
    if size == 0 or wire == BAD_STREAM or load64(producer + CAPTURING) != 0:
        return LATER
    if device_range(producer, source, size) == 0:
        return LATER
    if heap_owns(load64(producer + HEAP), target) == 0:
        return copy_out_staged(producer, target, source, size, wire, gil) if size <= STAGE_AT_ONCE else LATER
    pinned = is_pinned(producer, target)
    if pinned == 2:
        return LATER
    if pinned and is_async:
        return DONE if submit_copy(producer, _COPY_DTOH, target, source, size, wire, 0) else LATER
    slot = submit_copy(producer, _COPY_DTOH, target, source, size, wire, 1)
    if slot == 0:
        return LATER
    result = await_without_gil(producer, slot - 1, gil)
    if result == DONE:
        store64_release(producer + DRAINED, slot)
    else:
        note_landing(producer, slot - 1, 0, target, size)
    return result
