"""What the parser makes of PTX: modules, functions, variables, instructions and their operands.

Operands and instructions are msgspec's structures, of which making one takes a fifth of a dataclass's time: a large
kernel has tens of thousands. They hold no cycles, so the garbage collector need not look at them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec


class Reg(msgspec.Struct, frozen=True, gc=False):
    """A declared register; `name` is unique in its function (nested scopes are renamed apart)."""

    name: str


class Special(msgspec.Struct, frozen=True, gc=False):
    """A special register such as ``%tid.x``."""

    name: str


class Imm(msgspec.Struct, frozen=True, gc=False):
    """An integer constant."""

    value: int


class FImm(msgspec.Struct, frozen=True, gc=False):
    """A floating constant: its bits, 32 or 64 wide as written."""

    bits: int
    width: int


class Sym(msgspec.Struct, frozen=True, gc=False):
    """A variable, function or label, with a byte offset."""

    name: str
    offset: int = 0


class Addr(msgspec.Struct, frozen=True, gc=False):
    """``[base + offset]``."""

    base: Reg | Sym | Imm
    offset: int


class Vec(msgspec.Struct, frozen=True, gc=False):
    """``{a, b, …}``; an item is None for the sink ``_``."""

    items: tuple[Operand, ...]


class Texel(msgspec.Struct, frozen=True, gc=False):
    """``[object, {x, y, …}]``: coordinates in a texture or surface, perhaps with a sampler between."""

    base: Operand
    coordinates: Vec
    sampler: Operand = None


class Pair(msgspec.Struct, frozen=True, gc=False):
    """``d|p``: a result and a predicate; either may be the sink (None)."""

    first: Operand
    second: Operand


class Not(msgspec.Struct, frozen=True, gc=False):
    """``!p``: a negated predicate operand."""

    reg: Reg


Operand = Reg | Special | Imm | FImm | Sym | Addr | Vec | Texel | Pair | Not | None


class Instr(msgspec.Struct, gc=False):
    """One instruction. `mods` are the parts of the opcode after its name, in order."""

    name: str
    mods: tuple[str, ...]
    ops: list[Operand]
    line: int
    pred: Reg | None = None
    pred_not: bool = False
    #: for call: the callee, return parameters, arguments, prototype; for brx.idx: the label list
    callee: Operand = None
    rets: tuple[Operand, ...] = ()
    args: tuple[Operand, ...] = ()
    proto: str = ""
    targets: tuple[str, ...] = ()
    #: number of the suspend point, once region splitting gave it one
    suspend: int = -1


@dataclass(slots=True)
class Label:
    """A branch target."""

    name: str
    line: int


@dataclass(slots=True)
class Variable:
    """A variable of any state space, or a parameter."""

    name: str
    space: str
    type: str
    size: int
    align: int
    line: int = 0
    #: flattened initial values with the element size in bytes; a value is an int, or (symbol, offset, mask shift)
    init: list[int | tuple[str, int, int]] | None = None
    element: int = 1
    extern: bool = False
    linkage: str = ""
    #: dimension left open: ``extern __shared__ char x[]``
    unsized: bool = False
    #: declared as ``.reg`` parameter in an old-style function
    register: bool = False


@dataclass(slots=True)
class Mentions:
    """What a function's body mentions: see `mentions`."""

    #: symbols in operands, addresses and arguments
    named: set[str] = field(default_factory=set)
    #: functions that are called by name
    called: set[str] = field(default_factory=set)
    #: special registers
    specials: set[str] = field(default_factory=set)
    calls_pointers: bool = False


@dataclass(slots=True)
class Function:
    """An ``.entry`` or ``.func`` with its body (None for a prototype)."""

    name: str
    entry: bool
    line: int
    rets: list[Variable] = field(default_factory=list)
    params: list[Variable] = field(default_factory=list)
    regs: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    body: list[Instr | Label] | None = None
    linkage: str = ""
    maxntid: tuple[int, int, int] | None = None
    reqntid: tuple[int, int, int] | None = None
    noreturn: bool = False
    protos: dict[str, tuple[list[Variable], list[Variable]]] = field(default_factory=dict)
    #: of its body, once they were asked for; a changed copy starts without
    mentions: Mentions | None = field(default=None, init=False, compare=False, repr=False)


@dataclass(slots=True)
class Module:
    """One or several linked PTX texts."""

    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    version: str = ""
    target: str = ""
    #: the text, for error messages
    text: list[str] = field(default_factory=list)
