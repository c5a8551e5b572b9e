"""Memory layouts shared by generated code and the engine: the launch record and the worker's context.

Generated code reaches both by byte offsets; the engine writes them as raw memory.
"""

from __future__ import annotations

import struct

#: threads of a block at most
MAX_THREADS = 1024
#: items of a per-thread array: constant, so that distances between arrays are; an odd number of cache lines of
#: 4-byte items, so that one thread's items do not all fall into one cache set
PADDED = MAX_THREADS + 16

_FORMATS = {"i8": 1, "i32": 4, "i64": 8, "ptr": 8}


class Record:
    """Named fields at byte offsets."""

    def __init__(self, **fields: str) -> None:
        self.offset: dict[str, int] = {}
        self.kind: dict[str, str] = {}
        at = 0
        for name, kind in fields.items():
            size = _FORMATS.get(kind) or int(kind)
            align = size if size <= 8 else 16
            at = -(-at // align) * align
            self.offset[name] = at
            self.kind[name] = kind if kind in _FORMATS else "ptr"
            at += size
        self.size = -(-at // 64) * 64

    def packer(self) -> struct.Struct:
        """Packs all fields in order; for records of plain numbers."""
        codes = {"i8": "B", "i32": "I", "i64": "Q", "ptr": "Q"}
        text, at = "<", 0
        for name, offset in self.offset.items():
            text += f"{offset - at}x" + codes[self.kind[name]]
            at = offset + _FORMATS[self.kind[name]]
        return struct.Struct(text)


#: check mode's record of one byte of shared memory
SHADOW = Record(
    write_epoch="i32", writer="i32", write_warp="i32", read_epoch="i32", reader="i32", read_warp="i32", atomic="i32"
)

#: what all workers of one launch share
LAUNCH = Record(
    counter="i64", blocks="i64", chunk="i64",
    fault="i32", unused="i32",
    kernel="ptr", params="ptr", globals="ptr",
    gx="i32", gy="i32", gz="i32", bx="i32", by="i32", bz="i32",
    threads="i32", dynamic="i32", static="i32", spare="i32", local="i64",
    # the context of the worker that met the first fault
    fault_worker="ptr",
    # grid-wide barriers: the workspace that CUDA C++ uses, and the runtime's own counters
    workspace="i64",
    arrived="i32",
    generation="i32",
)  # fmt: skip

#: one worker thread's context; also what device functions get as their first argument
CONTEXT = Record(
    jump="256", active="i32", fault="i32", fault_address="i64", fault_a="i64", fault_b="i64", fault_c="i64",
    launch="ptr", params="ptr", globals="ptr", shared="ptr", local="ptr", frame="ptr",
    tx="i32", ty="i32", tz="i32", ntx="i32", nty="i32", ntz="i32",
    cx="i32", cy="i32", cz="i32", ncx="i32", ncy="i32", ncz="i32",
    threads="i32", dynamic="i32", static="i32", thread="i32", worker="i32", local_bytes="i64", stack_limit="i64",
    workspace="i64",
    # check mode: shadow of shared memory, table of allocations, counts of barriers passed
    shadow="ptr",
    allocations="ptr",
    epoch="i32",
    born="i32",
    warp_epochs="128",
    exited="i32", unused="i32",
    # arrays of the scheduler, one item a thread
    resume="ptr", returned="ptr", state="ptr", kind="ptr", mask="ptr", value="ptr", aux="ptr", result="ptr",
    group="ptr", tidx="ptr", tidy="ptr", tidz="ptr",
    pending="64",
)  # fmt: skip
