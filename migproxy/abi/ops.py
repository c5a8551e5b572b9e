"""The table of operations: numbers, names, whether they wait, whether they need the compute lease.

Numbers are part of the protocol and never reused. To add an operation: give it the next free number here, a handler in
``executor/handlers/`` (decorated with ``@handles(Op.NAME)``), and a caller in ``session/api/``; the meta test
``tests/meta/test_operation_table.py`` fails until all three agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Op(IntEnum):
    """Operation numbers."""

    NOP = 0
    LAUNCH = 1
    COPY_HTOD = 2
    COPY_DTOH = 3
    COPY_DTOD = 4
    MEMSET = 5
    EVENT_RECORD = 6
    STREAM_WAIT_EVENT = 7
    STREAM_SYNC = 8
    CONTEXT_SYNC = 9
    EVENT_SYNC = 10
    STREAM_QUERY = 11
    EVENT_QUERY = 12
    EVENT_ELAPSED = 13
    STREAM_CREATE = 14
    STREAM_DESTROY = 15
    EVENT_CREATE = 16
    EVENT_DESTROY = 17
    MAP = 18
    UNMAP = 19
    MODULE_LOAD = 20
    MODULE_UNLOAD = 21
    MODULE_FUNCTION = 22
    MODULE_GLOBAL = 23
    FUNCTION_SET_ATTRIBUTE = 25
    LIBRARY_LOAD = 26
    LIBRARY_UNLOAD = 27
    LIBRARY_KERNEL = 28
    LIBRARY_GLOBAL = 29
    LIBRARY_KERNELS = 30
    DRIVER_CALL = 31
    LIBRARY_CALL = 32
    FETCH_REPLY = 33
    STATISTICS = 34
    HOST_CALLBACK = 36
    CLOSE = 37
    FREE_MARK = 38
    CAPTURE_BEGIN = 43
    CAPTURE_END = 44
    GRAPH_LAUNCH = 45
    CONTEXT_SET_LIMIT = 46
    GRAPH_INSTANTIATE = 47
    GRAPH_DESTROY = 48
    # 49 asked for the next host function: words of the header tell it, which no command holds up.
    LIBRARY_QUERY = 50
    COPY_BOX = 51
    COPY_BOX_DEVICE = 52
    LATE_ERROR = 53
    ALLOCATION = 54
    LAUNCH_EX = 55
    IPC_GIVE_MEMORY = 56
    IPC_GIVE_EVENT = 57
    IPC_TAKE_MEMORY = 58
    IPC_TAKE_EVENT = 59
    IPC_CLOSE_MEMORY = 60
    IPC_WITHDRAW = 61
    COPY_WITHIN = 62


@dataclass(frozen=True, slots=True)
class OpFacts:
    """What is true of one operation.

    Attributes
    ----------
    waits : bool
        The function always waits for a reply.
    lease : bool
        It uses the multiprocessors, so the executor needs its slice's compute lease.
    """

    waits: bool
    lease: bool


def _facts(*, waits: bool = False, lease: bool = False) -> OpFacts:
    return OpFacts(waits, lease)


OPERATIONS: dict[Op, OpFacts] = {
    Op.NOP: _facts(),
    Op.LAUNCH: _facts(lease=True),
    Op.COPY_HTOD: _facts(),
    Op.COPY_DTOH: _facts(),
    Op.COPY_DTOD: _facts(lease=True),
    Op.MEMSET: _facts(lease=True),
    Op.EVENT_RECORD: _facts(),
    Op.STREAM_WAIT_EVENT: _facts(),
    Op.STREAM_SYNC: _facts(waits=True),
    Op.CONTEXT_SYNC: _facts(waits=True),
    Op.EVENT_SYNC: _facts(waits=True),
    Op.STREAM_QUERY: _facts(waits=True),
    Op.EVENT_QUERY: _facts(waits=True),
    Op.EVENT_ELAPSED: _facts(waits=True),
    Op.STREAM_CREATE: _facts(),
    Op.STREAM_DESTROY: _facts(),
    Op.EVENT_CREATE: _facts(),
    Op.EVENT_DESTROY: _facts(),
    Op.MAP: _facts(),
    Op.UNMAP: _facts(),
    Op.MODULE_LOAD: _facts(waits=True),
    Op.MODULE_UNLOAD: _facts(waits=True),
    Op.MODULE_FUNCTION: _facts(waits=True),
    Op.MODULE_GLOBAL: _facts(waits=True),
    Op.FUNCTION_SET_ATTRIBUTE: _facts(waits=True),
    Op.LIBRARY_LOAD: _facts(waits=True),
    Op.LIBRARY_UNLOAD: _facts(waits=True),
    Op.LIBRARY_KERNEL: _facts(waits=True),
    Op.LIBRARY_GLOBAL: _facts(waits=True),
    Op.LIBRARY_KERNELS: _facts(waits=True),
    Op.DRIVER_CALL: _facts(waits=True),
    Op.LIBRARY_CALL: _facts(lease=True),
    Op.FETCH_REPLY: _facts(waits=True),
    Op.STATISTICS: _facts(waits=True),
    Op.HOST_CALLBACK: _facts(),
    Op.CLOSE: _facts(waits=True),
    Op.FREE_MARK: _facts(),
    Op.CAPTURE_BEGIN: _facts(waits=True),
    Op.CAPTURE_END: _facts(waits=True),
    Op.GRAPH_LAUNCH: _facts(lease=True),
    Op.CONTEXT_SET_LIMIT: _facts(waits=True),
    Op.GRAPH_INSTANTIATE: _facts(waits=True),
    Op.GRAPH_DESTROY: _facts(),
    Op.LAUNCH_EX: _facts(lease=True),
    Op.COPY_BOX: _facts(),
    Op.COPY_BOX_DEVICE: _facts(lease=True),
    Op.LIBRARY_QUERY: _facts(),
    Op.LATE_ERROR: _facts(waits=True),
    Op.ALLOCATION: _facts(),
    Op.IPC_GIVE_MEMORY: _facts(waits=True),
    Op.IPC_GIVE_EVENT: _facts(waits=True),
    Op.IPC_TAKE_MEMORY: _facts(waits=True),
    Op.IPC_TAKE_EVENT: _facts(waits=True),
    Op.IPC_CLOSE_MEMORY: _facts(waits=True),
    Op.IPC_WITHDRAW: _facts(),
    Op.COPY_WITHIN: _facts(),
}
