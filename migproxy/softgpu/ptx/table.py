"""The instruction table: what every PTX instruction is to this compiler.

The lowering registers a handler for each instruction that is done; a test holds this table, the handlers and
``docs/ptx-coverage.md`` (generated from here) against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from migproxy.softgpu.ptx.ast import Instr


class Status(Enum):
    """How an instruction is treated."""

    DONE = "done"
    REFUSED = "refused by name"
    OUT = "out of scope"


@dataclass(frozen=True, slots=True)
class Entry:
    """One instruction of the PTX manual."""

    name: str
    group: str
    status: Status = Status.DONE
    note: str = ""


_DONE: dict[str, str] = {
    "integer arithmetic": "add sub mul mad mul24 mad24 sad div rem abs neg min max popc clz bfind fns brev bfe bfi "
    "szext bmsk dp4a dp2a",
    "extended precision": "addc subc madc",
    "floating point": "fma rcp sqrt rsqrt sin cos lg2 ex2 tanh testp copysign",
    "comparison and selection": "set setp selp slct",
    "logic and shift": "and or xor not cnot lop3 shf shl shr",
    "data movement": "mov shfl prmt ld ldu st prefetch prefetchu isspacep cvta cvt discard applypriority alloca "
    "stacksave stackrestore createpolicy nop",
    "asynchronous copy": "cp",
    "control flow": "bra brx call ret exit",
    "synchronisation": "bar barrier membar fence atom red vote match activemask redux elect griddepcontrol mbarrier",
    "cluster and multi-device": "mapa getctarank",
    "texture and surface": "tex tld4 txq suld sust suq",
    "miscellaneous": "brkpt nanosleep pmevent trap",
    "video": "vadd4 vsub4 vavrg4 vabsdiff4 vmin4 vmax4 vset4 vadd2 vsub2 vavrg2 vabsdiff2 vmin2 vmax2 vset2",
}

_NOT: list[tuple[str, str, Status, str]] = [
    ("vadd vsub vabsdiff vmin vmax vshl vshr vmad vset", "video", Status.REFUSED,
     "scalar video instructions: no compiler emits them since sm_50"),
    ("sured", "texture and surface", Status.REFUSED, "no compiler emits it"),
    ("istypep", "texture and surface", Status.REFUSED, "opaque variables: textures and surfaces are objects here"),
    ("ldmatrix", "matrix", Status.REFUSED, "but not 8×8 matrices of 16 bits without a predicate: shuffles and loads"),
    ("wmma mma stmatrix movmatrix", "matrix", Status.REFUSED, "tensor-core instructions"),
    ("wgmma tcgen05 setmaxnreg", "matrix", Status.OUT, "tensor-core instructions of sm_90a and later"),
    ("multimem", "cluster and multi-device", Status.REFUSED, "memory of several devices at one address"),
    ("clusterlaunchcontrol tensormap st.bulk", "cluster and multi-device", Status.OUT, "sm_90a and sm_100 only"),
]  # fmt: skip

_NOTES = {
    "cp": "cp.async, cp.async.bulk with their groups and barriers; no tensor maps, multicast, cp.reduce",
    "mapa": "each block is a cluster of its own", "getctarank": "each block is a cluster of its own",
    "add": "without .f32x2 (sm_100)", "mul": "without .f32x2 (sm_100)", "fma": "without .f32x2 (sm_100)",
    "cvt": "with e4m3 and e5m2; without the 6- and 4-bit formats (sm_100)",
    "shfl": "with .sync", "vote": "with .sync", "match": "with .sync", "redux": "integer forms",
    "bar": "sync, red, arrive, warp.sync", "barrier": "sync, red, arrive, cluster",
    "alloca": "not in kernels with barriers or warp operations",
    "call": "indirect calls with a prototype; no barrier inside a function called by pointer or recursively",
    "brkpt": "does nothing: there is no debugger", "pmevent": "does nothing", "griddepcontrol": "does nothing",
    "prefetch": "does nothing", "prefetchu": "does nothing", "discard": "does nothing",
    "applypriority": "does nothing", "createpolicy": "an opaque value that nothing reads",
    "fence": "full fences; proxy fences of asynchronous copies are no different",
    "isspacep": "constant memory counts as global",
    "tex": "texture objects (unified mode), 32-bit results; no multi-sample, offsets, comparison, residency",
    "tld4": "2d; no offsets, comparison, residency",
    "suld": "unformatted (.b)", "sust": "unformatted (.b)",
    "txq": "sizes, levels and properties of texture objects", "suq": "sizes and properties of surface objects",
} | {f"v{op}{n}": "no lane masks and selectors" for op in ("add", "sub", "avrg", "absdiff", "min", "max", "set")
     for n in (2, 4)}  # fmt: skip

TABLE: dict[str, Entry] = {
    name: Entry(name, group, note=_NOTES.get(name, "")) for group, names in _DONE.items() for name in names.split()
} | {name: Entry(name, group, status, note) for names, group, status, note in _NOT for name in names.split()}

#: instructions whose first operand is not a result
NO_DEST = frozenset(
    [
        "st",
        "red",
        "bra",
        "brx",
        "call",
        "ret",
        "exit",
        "membar",
        "fence",
        "prefetch",
        "prefetchu",
        "discard",
        "applypriority",
        "trap",
        "brkpt",
        "pmevent",
        "nanosleep",
        "cp",
        "sust",
        "nop",
        "griddepcontrol",
        "stackrestore",
    ]
)

#: instructions at which a thread may have to wait for others
SUSPENDING = frozenset("bar barrier shfl vote match redux activemask elect $yield".split())  # noqa: SIM905


def suspends(instr: Instr) -> bool:
    """Whether a thread may have to wait for other threads at this instruction."""
    return instr.name in SUSPENDING and not (instr.name in ("bar", "barrier") and "arrive" in instr.mods)


def without_result(instr: Instr) -> bool:
    """Whether the first operand is no result."""
    if instr.name == "mbarrier":
        return instr.mods[0] in ("init", "inval", "expect_tx", "complete_tx")
    if instr.name in ("bar", "barrier"):
        return "red" not in instr.mods
    return instr.name in NO_DEST
