"""Byte layouts of the arena's control segment and of the command slots.

Everything is little-endian and naturally aligned. The control segment::

    0x0000  header page: constants written by the broker, then the words that the two sides exchange
    RING    SLOT_COUNT slots of SLOT_SIZE bytes
    REPLY   SLOT_COUNT reply lines of REPLY_SIZE bytes, line i belongs to the command in slot i
    HEAP    the rest: blocks of `mignificient_malloc`, NumPy arrays, staging, long payloads and replies

Ownership of each word is stated beside it; the other side only reads. Pairs that order memory:
`HEAD` is stored (release) after a slot is filled and loaded (acquire) before it is read; a reply's `REPLY_SEQ` is
stored (release) after its other bytes and loaded (acquire) before them; `TAIL` is stored (release) after a slot was
copied out
and loaded (acquire) before it is filled again. `CALLED` is stored (release) after `CALLED_TOKEN` and loaded (acquire)
before it; `RAN` follows `CALLED`, so the token is stored again only after the function has read it.
"""

from __future__ import annotations

import struct

# -- header page: constants ------------------------------------------------------------------------------------------
MAGIC_OFFSET = 0x00  # u64
SIZE_OFFSET = 0x10  # u64: bytes of the control segment
SLOT_COUNT_OFFSET = 0x18  # u64
VERSION_OFFSET = 0x08  # u32: stored last; 0 means 'not ready'

# -- header page: words, each on its own cache line ------------------------------------------------------------------
HEAD_OFFSET = 0x100  # u64, function: commands published
TAIL_OFFSET = 0x140  # u64, executor: commands copied out of their slots
HOST_RETIRED_OFFSET = 0x180  # u64, executor: host memory named by commands below this number is no longer in use
FREES_RETIRED_OFFSET = 0x188  # u64, executor: frees carried out, in order; their addresses may be used again
EXECUTOR_BELL_OFFSET = 0x1C0  # u32, both: futex the executor sleeps on; 1 = asleep or about to be
FUNCTION_BELL_OFFSET = 0x200  # u32, executor: counter, raised with each reply and each batch of taken slots; a futex
FUNCTION_SLEEPERS_OFFSET = 0x240  # u32, function: threads asleep on the function's bell
DEFERRED_STATUS_OFFSET = 0x280  # u32, executor: first CUresult of a command without reply; reported once
STICKY_STATUS_OFFSET = 0x284  # u32, executor: CUresult that every later call returns (context is dead)
STATE_OFFSET = 0x288  # u32, executor: one of STATE_*
OTHER_BYTES_OFFSET = 0x2C0  # u64, executor: device memory charged besides the function's granules: context, libraries
PEAK_BYTES_OFFSET = 0x2C8  # u64, executor: highest sum of granules and other bytes so far
WAITED_OFFSET = 0x300  # u64, function: nanoseconds it waited for replies and room, for its report; nothing else uses it
# Host functions go past the ring: what is to run, and what has run, must not wait behind a command that is held back.
CALLED_OFFSET = 0x340  # u64, executor: host functions that the function was told to run, stored after CALLED_TOKEN
CALLED_TOKEN_OFFSET = 0x348  # u64, executor: the last one's token
RAN_OFFSET = 0x380  # u64, function: host functions that have run

STATE_STARTING = 0
STATE_READY = 1
STATE_CLOSED = 2
STATE_LOST = 3

# -- ring ------------------------------------------------------------------------------------------------------------
RING_OFFSET = 0x1000
SLOT_COUNT = 4096
SLOT_SIZE = 512
REPLY_OFFSET = RING_OFFSET + SLOT_COUNT * SLOT_SIZE
REPLY_SIZE = 64
HEAP_OFFSET = (REPLY_OFFSET + SLOT_COUNT * REPLY_SIZE + 0xFFF) & ~0xFFF

#: op u16, flags u16, payload length u32, stream handle u64, payload address u64 (if FLAG_SPILLED),
#: reply buffer address u64, reply buffer capacity u32, thread number u32
SLOT_HEADER = struct.Struct("<HHIQQQII")
PAYLOAD_OFFSET = 64
INLINE_PAYLOAD = SLOT_SIZE - PAYLOAD_OFFSET

FLAG_WAIT = 1  # the function waits for a reply
FLAG_SPILLED = 2  # the payload lies in the heap

# -- reply line ------------------------------------------------------------------------------------------------------
REPLY_SEQ = 0  # u64: command number + 1, stored last
REPLY_HEADER = struct.Struct("<QiI")  # sequence, status (CUresult, or a negative STATUS_*), length of data
REPLY_INLINE_OFFSET = 16
REPLY_INLINE = REPLY_SIZE - REPLY_INLINE_OFFSET

DEFERRED_LIBRARY = 0x7FFF_0001  # no CUresult: a library call without reply failed; Op.LATE_ERROR tells its error
MOST_MESSAGE = 2_000  # characters of an error's message that travel

STATUS_PROTOCOL = -1  # refused: malformed; data is a UTF-8 message
STATUS_TOO_LONG = -2  # the reply needs more room: data is the needed size (u64); fetch it with Op.FETCH_REPLY
STATUS_LIBRARY = -3  # a library call failed: data is a msgpack map that names the library's error
STATUS_REFUSED = -4  # refused by name: not supported; data is a UTF-8 message
STATUS_LIBRARY_LONG = -5  # as STATUS_LIBRARY, but the map must be fetched as after STATUS_TOO_LONG

# -- hot payloads ----------------------------------------------------------------------------------------------------
#: function handle u64; grid x, y, z, block x, y, z u32; dynamic shared bytes u32; LAUNCH_* flags u32;
#: parameter bytes u32; pad
LAUNCH = struct.Struct("<Q6IIIII")
LAUNCH_PARAMS_OFFSET = PAYLOAD_OFFSET + LAUNCH.size  # 112: 16-byte aligned
LAUNCH_COOPERATIVE = 1
#: After LAUNCH in a launch with clusters, before the parameters: blocks of a cluster x, y, z, CUclusterSchedulingPolicy
CLUSTER = struct.Struct("<4I")
#: destination u64, source u64, bytes u64
COPY = struct.Struct("<QQQ")
#: Destination and source of a box of rows and slices, each: BOX_* u32, pad; x in bytes, y, z u64; address of the first
#: byte or array's handle u64; pitch, rows of a slice u64. Then width in bytes, height, depth u64.
BOX = struct.Struct("<I4x6QI4x6QQQQ")
BOX_HOST = 0
BOX_DEVICE = 1
BOX_ARRAY = 2
#: destination u64, value u32, element bytes u32 (1, 2 or 4), count u64
MEMSET = struct.Struct("<QIIQ")
#: event handle u64, flags u32
EVENT = struct.Struct("<QI")
#: address u64, bytes u64
RANGE = struct.Struct("<QQ")
#: handle u64, flags u32, priority i32
CREATE = struct.Struct("<QIi")
#: handle u64
HANDLE = struct.Struct("<Q")

# -- handles ---------------------------------------------------------------------------------------------------------
#: A handle is ``kind << HANDLE_KIND_SHIFT | index``; index 0 is never used. It looks like a pointer, but never is one.
HANDLE_KIND_SHIFT = 40
HANDLE_INDEX_MASK = (1 << HANDLE_KIND_SHIFT) - 1
KIND_STREAM = 0x41
KIND_EVENT = 0x42
KIND_MODULE = 0x43
KIND_FUNCTION = 0x44
KIND_LIBRARY = 0x45
KIND_KERNEL = 0x46
KIND_CONTEXT = 0x47
KIND_GRAPH = 0x48
KIND_GRAPH_EXEC = 0x49
KIND_GRAPH_NODE = 0x4A
KIND_ARRAY = 0x4B
KIND_MIPMAP = 0x4C
KIND_TEXTURE = 0x4D
KIND_SURFACE = 0x4E
KIND_POOL = 0x4F
KIND_LINK = 0x50
KIND_ALLOCATION = 0x51
KIND_OBJECT = 0x60  # handles of plugins' libraries
KIND_NAMES = {
    value: name.removeprefix("KIND_").lower() for name, value in list(globals().items()) if name.startswith("KIND_")
}


def make_handle(kind: int, index: int) -> int:
    """Return the handle of object `index` (at least 1) of `kind`."""
    return kind << HANDLE_KIND_SHIFT | index
