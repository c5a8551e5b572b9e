"""The pump's state block: where its words lie. `PumpTables` makes the block, ``pump.py`` works on it."""

from __future__ import annotations

from migproxy.abi import layout
from migproxy.executor import flight

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
RESTED = 0x230  # how often Python has slept since work came or went; looking again is then a short look
LONG_TICKS = 0x238  # how long to look where somebody waits and no neighbour does
WRITE_VALUE = 0x228  # a driver function too: the device itself answers waits; 0 = it cannot
LAST_WORK = 0x240  # when the last kernel or library call was issued
TELL_TICKS = 0x248  # for how long a device that may just have finished is only asked
COPY = 0x280  # SLOT_SIZE bytes: the command in hand
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
#: In a wait's command number, with ASKS_STREAM: the device has not been told to answer.
UNTOLD = 1 << 61

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
