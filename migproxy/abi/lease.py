"""The lease page of one slice: shared memory of the broker and the slice's executors. See
docs/decisions/broker-lease.md.

A header, then one line for each session's place. Places are numbered from 0; words that name one hold its number + 1,
and 0 is nobody. Ownership is stated beside each word.
"""

from __future__ import annotations

# -- header ----------------------------------------------------------------------------------------------------------
HOLDER = 0x00  # u32, whoever hands the lease over: the place that has it
MEMBERS = 0x40  # u32, broker: sessions on the slice
WAITING = 0x44  # u32, broker: sessions that wait, as far as it knows

# -- one line for each place -----------------------------------------------------------------------------------------
LINES = 0x1000
LINE = 128
PLACES = 480
PAGE_SIZE = LINES + PLACES * LINE

PERMIT = 0x00  # u32: one of the values below
SUCCESSOR = 0x04  # u32, broker: who is to have the lease next
WANT = 0x40  # u32, executor: 1 = it waits for the lease
HELD_NS = 0x48  # u64, executor: how long it computed with the lease, in all
# u64, executor: CLOCK_MONOTONIC ns of the last progress of work on its way; 0 = none is on its way. While it loads
# code, which may take long without a hang, this lies in the future.
BUSY_SINCE = 0x50
HANDOVERS = 0x58  # u64, executor: how often it got the lease

PERMIT_NONE = 0
PERMIT_HELD = 1  # may issue work for the multiprocessors
PERMIT_REVOKED = 2  # by the broker: issue nothing more, let the queue drain, hand over to SUCCESSOR
PERMIT_PARKED = 4  # has it and pauses: whoever changes this to 0 may take the lease, the holder takes it back by 1

#: Modes of a slice.
MODES = ("sequential", "overlap_cpu", "overlap_cpu_memcpy", "full_overlap")
DEFAULT_MODE = "overlap_cpu_memcpy"
