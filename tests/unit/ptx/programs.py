"""Random PTX programs, written out beside a model of them in NumPy: one array item a thread, a mask for divergence.

A program works on a few registers of each type. It has straight code, branches and loops that depend on the thread,
local and shared memory, atomics, warp operations, barriers, calls and jump tables; all results are integers or exactly
rounded, so that both must agree to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np

Array = np.ndarray
U32, U64, F32 = np.uint32, np.uint64, np.float32
#: registers of each type
COUNTS = {"r": 6, "d": 3, "f": 3, "p": 3}
DTYPES = {"r": U32, "d": U64, "f": F32, "p": np.bool_}
NAN = np.array(0x7FFFFFFF, U32).view(F32)


def s32(x: Array) -> Array:
    return x.view(np.int32) if x.dtype == U32 else x.view(np.int64)


def _shift(x: Array, by: Array, how: str) -> Array:
    bits = 8 * x.itemsize
    over = by >= bits
    amount = np.minimum(by, bits - 1).astype(x.dtype)
    if how == "shl":
        return np.where(over, x.dtype.type(0), x << amount)
    if how == "shr.u":
        return np.where(over, x.dtype.type(0), x >> amount)
    return (s32(x) >> amount.astype(s32(x).dtype)).view(x.dtype)


def _divide(a: Array, b: Array, how: str) -> Array:
    zero = b == 0
    q = a // np.where(zero, 1, b)
    return np.where(zero, U32(0xFFFFFFFF), q if how == "div" else a - q * b).astype(U32)


def _high(a: Array, b: Array) -> Array:
    return (a.astype(U64) * b >> U64(32)).astype(U32)


def _count(x: Array, how: str) -> Array:
    bits = 8 * x.itemsize

    def one(v: int) -> int:
        if how == "popc":
            return v.bit_count()
        if how == "clz":
            return bits - v.bit_length()
        return (v.bit_length() - 1) & 0xFFFFFFFF

    return np.array([one(int(v)) for v in x], U32)


def _brev(x: Array) -> Array:
    return np.array([int(f"{int(v):032b}"[::-1], 2) for v in x], U32)


def _prmt(a: Array, b: Array, c: Array) -> Array:
    whole = b.astype(U64) << U64(32) | a
    out = np.zeros_like(a)
    for n in range(4):
        nibble = c >> U32(4 * n) & U32(15)
        byte = (whole >> ((nibble & U32(7)).astype(U64) * U64(8)) & U64(255)).astype(U32)
        byte = np.where(nibble & U32(8), np.where(byte & U32(128), U32(255), U32(0)), byte)
        out |= byte << U32(8 * n)
    return out


def _lop3(table: int) -> Callable[..., Array]:
    def model(a: Array, b: Array, c: Array) -> Array:
        out = np.zeros_like(a)
        for n in range(8):
            if table >> n & 1:
                out |= (a if n & 4 else ~a) & (b if n & 2 else ~b) & (c if n & 1 else ~c)
        return out

    return model


def _to_int(x: Array, low: int, high: int, dtype: type) -> Array:
    with np.errstate(all="ignore"):
        wide = np.trunc(x.astype(np.float64))
        clamped = np.clip(np.where(np.isnan(x), 0, wide), low, high)
    return np.array([int(v) & 0xFFFFFFFF for v in clamped], dtype)


def _minimum(a: Array, b: Array) -> Array:
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.where(
        a == b, np.where(np.signbit(a), a, b), np.where(a < b, a, b))))  # fmt: skip


def _maximum(a: Array, b: Array) -> Array:
    return -_minimum(-a, -b)


#: opcode → destination, sources, model
OPS: list[tuple[str, str, str, Callable[..., Array]]] = [
    ("add.u32", "r", "rr", lambda a, b: a + b), ("sub.s32", "r", "rr", lambda a, b: a - b),
    ("mul.lo.u32", "r", "rr", lambda a, b: a * b), ("mul.hi.u32", "r", "rr", _high),
    ("mad.lo.s32", "r", "rrr", lambda a, b, c: a * b + c), ("and.b32", "r", "rr", lambda a, b: a & b),
    ("or.b32", "r", "rr", lambda a, b: a | b), ("xor.b32", "r", "rr", lambda a, b: a ^ b),
    ("not.b32", "r", "r", lambda a: ~a), ("neg.s32", "r", "r", lambda a: U32(0) - a),
    ("abs.s32", "r", "r", lambda a: np.where(s32(a) < 0, U32(0) - a, a)),
    ("min.s32", "r", "rr", lambda a, b: np.minimum(s32(a), s32(b)).view(U32)),
    ("max.u32", "r", "rr", np.maximum), ("div.u32", "r", "rr", lambda a, b: _divide(a, b, "div")),
    ("rem.u32", "r", "rr", lambda a, b: _divide(a, b, "rem")),
    ("shl.b32", "r", "rr", lambda a, b: _shift(a, b, "shl")),
    ("shr.u32", "r", "rr", lambda a, b: _shift(a, b, "shr.u")),
    ("shr.s32", "r", "rr", lambda a, b: _shift(a, b, "shr.s")), ("popc.b32", "r", "r", lambda a: _count(a, "popc")),
    ("clz.b32", "r", "r", lambda a: _count(a, "clz")), ("bfind.u32", "r", "r", lambda a: _count(a, "bfind")),
    ("popc.b64", "r", "d", lambda a: _count(a, "popc")), ("brev.b32", "r", "r", _brev), ("prmt.b32", "r", "rrr", _prmt),
    ("shf.l.wrap.b32", "r", "rrr", lambda a, b, c: (
        (b.astype(U64) << U64(32) | a) << (c & U32(31)).astype(U64) >> U64(32)).astype(U32)),
    ("selp.b32", "r", "rrp", lambda a, b, c: np.where(c, a, b)),
    ("cvt.u32.u64", "r", "d", lambda a: a.astype(U32)),
    ("cvt.s32.s8", "r", "r", lambda a: a.astype(np.int8).astype(np.int32).view(U32)),
    ("cvt.u32.u16", "r", "r", lambda a: a & U32(0xFFFF)),
    ("cvt.rzi.s32.f32", "r", "f", lambda a: _to_int(a, -(2**31), 2**31 - 1, U32)),
    ("cvt.rzi.u32.f32", "r", "f", lambda a: _to_int(a, 0, 2**32 - 1, U32)),
    ("add.u64", "d", "dd", lambda a, b: a + b), ("sub.u64", "d", "dd", lambda a, b: a - b),
    ("mul.lo.u64", "d", "dd", lambda a, b: a * b), ("mul.wide.u32", "d", "rr", lambda a, b: a.astype(U64) * b),
    ("mul.wide.s32", "d", "rr", lambda a, b: (s32(a).astype(np.int64) * s32(b)).view(U64)),
    ("mad.wide.u32", "d", "rrd", lambda a, b, c: a.astype(U64) * b + c), ("xor.b64", "d", "dd", lambda a, b: a ^ b),
    ("shr.u64", "d", "dr", lambda a, b: _shift(a, b, "shr.u")),
    ("shr.s64", "d", "dr", lambda a, b: _shift(a, b, "shr.s")),
    ("shl.b64", "d", "dr", lambda a, b: _shift(a, b, "shl")),
    ("max.s64", "d", "dd", lambda a, b: np.maximum(s32(a), s32(b)).view(U64)),
    ("cvt.u64.u32", "d", "r", lambda a: a.astype(U64)),
    ("cvt.s64.s32", "d", "r", lambda a: s32(a).astype(np.int64).view(U64)),
    ("selp.b64", "d", "ddp", lambda a, b, c: np.where(c, a, b)),
    ("add.rn.f32", "f", "ff", lambda a, b: a + b), ("sub.rn.f32", "f", "ff", lambda a, b: a - b),
    ("mul.rn.f32", "f", "ff", lambda a, b: a * b), ("div.rn.f32", "f", "ff", lambda a, b: a / b),
    ("min.f32", "f", "ff", _minimum), ("max.f32", "f", "ff", _maximum), ("neg.f32", "f", "f", lambda a: -a),
    ("abs.f32", "f", "f", np.abs), ("sqrt.rn.f32", "f", "f", np.sqrt),
    ("cvt.rn.f32.u32", "f", "r", lambda a: a.astype(F32)), ("cvt.rn.f32.s32", "f", "r", lambda a: s32(a).astype(F32)),
    ("selp.f32", "f", "ffp", lambda a, b, c: np.where(c, a, b)),
    ("setp.lt.u32", "p", "rr", lambda a, b: a < b), ("setp.ge.s32", "p", "rr", lambda a, b: s32(a) >= s32(b)),
    ("setp.ne.u64", "p", "dd", lambda a, b: a != b), ("setp.gt.s64", "p", "dd", lambda a, b: s32(a) > s32(b)),
    ("setp.lt.f32", "p", "ff", lambda a, b: a < b), ("setp.geu.f32", "p", "ff", lambda a, b: ~(a < b)),
    ("setp.num.f32", "p", "ff", lambda a, b: ~np.isnan(a) & ~np.isnan(b)),
    ("xor.pred", "p", "pp", lambda a, b: a ^ b), ("not.pred", "p", "p", lambda a: ~a),
]  # fmt: skip
OPS += [(f"lop3.b32/{table}", "r", "rrr", _lop3(table)) for table in (0x96, 0xE8, 0x2D)]


class Program:
    """Grows PTX text and runs its model at once."""

    def __init__(self, random: Random, threads: int) -> None:
        self.random = random
        self.threads = threads
        self.lines: list[str] = []
        self.labels = 0
        self.tid = np.arange(threads, dtype=U32)
        seeds = np.random.default_rng(random.randrange(1 << 30))
        self.inputs = seeds.integers(0, 1 << 32, (2, threads), dtype=np.uint64).astype(U32)
        small = self.inputs[1] & U32(63)
        with np.errstate(all="ignore"):
            self.values: dict[str, Array] = {
                **{f"r{n}": (self.inputs[0] if n % 2 else small) + U32(n) for n in range(COUNTS["r"])},
                **{f"d{n}": self.inputs[0].astype(U64) * U64(n * 77 + 1) for n in range(COUNTS["d"])},
                **{f"f{n}": small.astype(F32) - F32(10 * n) for n in range(COUNTS["f"])},
                **{f"p{n}": (self.inputs[0] >> U32(n) & U32(1)) != 0 for n in range(COUNTS["p"])},
            }

    # -- pieces ---------------------------------------------------------------------------------------------------

    def emit(self, text: str) -> None:
        self.lines.append(text)

    def label(self) -> str:
        self.labels += 1
        return f"L{self.labels}"

    def pick(self, kind: str) -> str:
        return f"{kind}{self.random.randrange(COUNTS[kind])}"

    def assign(self, name: str, value: Array, mask: Array) -> None:
        self.values[name] = np.where(mask, value, self.values[name]).astype(DTYPES[name[0]])

    def straight(self, mask: Array) -> None:
        """One instruction, perhaps under a guard."""
        opcode, dest, sources, model = self.random.choice(OPS)
        opcode, _, table = opcode.partition("/")
        names = [self.pick(kind) for kind in sources]
        operands = [f"%{name}" for name in names]
        values = [self.values[name] for name in names]
        if sources[-1:] == "r" and len(sources) > 1 and self.random.random() < 0.3:
            constant = self.random.choice([0, 1, 7, 31, 32, 0x7FFFFFFF, 0xFFFFFFFF])
            operands[-1], values[-1] = str(constant), np.full(self.threads, constant, U32)
        guard = ""
        if self.random.random() < 0.25:
            name, negated = self.pick("p"), self.random.random() < 0.5
            guard = f"@{'!' if negated else ''}%{name} "
            mask = mask & (~self.values[name] if negated else self.values[name])
        target = self.pick(dest)
        self.emit(f"{guard}{opcode} %{target}, {', '.join([*operands, *([table] if table else [])])};")
        with np.errstate(all="ignore"):
            self.assign(target, model(*values), mask)

    def block(self, mask: Array, depth: int, size: int) -> None:
        for _ in range(size):
            choice = self.random.random()
            if depth and choice < 0.12:
                self.branch(mask, depth)
            elif depth and choice < 0.2:
                self.loop(mask, depth)
            elif depth and choice < 0.25:
                self.jump_table(mask, depth)
            elif choice < 0.3:
                self.local(mask)
            elif choice < 0.35:
                self.call(mask)
            else:
                self.straight(mask)

    def branch(self, mask: Array, depth: int) -> None:
        other, end = self.label(), self.label()
        name = self.pick("p")
        self.emit(f"mov.pred %q{depth}, %{name};")
        taken = self.values[name].copy()
        self.emit(f"@!%q{depth} bra {other};")
        self.block(mask & taken, depth - 1, self.random.randrange(1, 4))
        self.emit(f"bra {end};")
        self.emit(f"{other}:")
        self.block(mask & ~taken, depth - 1, self.random.randrange(0, 3))
        self.emit(f"{end}:")

    def loop(self, mask: Array, depth: int) -> None:
        """A loop whose number of rounds differs by thread; its body's model is recorded and replayed."""
        head, end = self.label(), self.label()
        name = self.pick("r")
        rounds = self.values[name] & U32(3)
        self.emit(f"and.b32 %n{depth}, %{name}, 3;")
        self.emit(f"{head}: setp.eq.u32 %q{depth}, %n{depth}, 0;")
        self.emit(f"@%q{depth} bra {end};")
        ops = []
        for _ in range(self.random.randrange(1, 4)):
            opcode, dest, sources, model = self.random.choice(OPS)
            opcode, _, table = opcode.partition("/")
            names, target = [self.pick(kind) for kind in sources], self.pick(dest)
            extra = [table] if table else []
            self.emit(f"{opcode} %{target}, {', '.join([*(f'%{n}' for n in names), *extra])};")
            ops.append((model, names, target))
        self.emit(f"sub.u32 %n{depth}, %n{depth}, 1;")
        self.emit(f"bra {head};")
        self.emit(f"{end}:")
        for number in range(3):
            active = mask & (rounds > number)
            for model, names, target in ops:
                with np.errstate(all="ignore"):
                    self.assign(target, model(*[self.values[n] for n in names]), active)

    def jump_table(self, mask: Array, depth: int) -> None:
        labels, end, table = [self.label() for _ in range(3)], self.label(), self.label()
        name = self.pick("r")
        index = _divide(self.values[name], np.full(self.threads, 3, U32), "rem")
        self.emit(f"rem.u32 %n{depth}, %{name}, 3;")
        self.emit(f"{table}: .branchtargets {', '.join(labels)};")
        self.emit(f"brx.idx %n{depth}, {table};")
        for number, label in enumerate(labels):
            self.emit(f"{label}:")
            self.straight(mask & (index == number))
            self.emit(f"bra {end};")
        self.emit(f"{end}:")

    def local(self, mask: Array) -> None:
        """Store to one place of local memory and load from another that may be the same."""
        to, fro, value, target = self.pick("r"), self.pick("r"), self.pick("r"), self.pick("r")
        for name, reg in ((to, "x"), (fro, "y")):
            self.emit(f"and.b32 %{reg}, %{name}, 1; mul.wide.u32 %{reg}l, %{reg}, 4; add.u64 %{reg}l, %{reg}l, %mem;")
        self.emit(f"st.local.u32 [%yl], 5; st.local.u32 [%xl], %{value}; ld.local.u32 %{target}, [%yl];")
        same = (self.values[to] ^ self.values[fro]) & U32(1) == 0
        self.assign(target, np.where(same, self.values[value], U32(5)), mask)

    def call(self, mask: Array) -> None:
        a, b, target = self.pick("r"), self.pick("r"), self.pick("r")
        self.emit(
            "{ .param .u32 a; .param .u32 b; .param .u32 c; "
            f"st.param.u32 [a], %{a}; st.param.u32 [b], %{b}; call (c), mix, (a, b); ld.param.u32 %{target}, [c]; }}"
        )
        self.assign(target, (self.values[a] ^ (self.values[b] << U32(3))) + U32(7), mask)

    # -- what all threads do together -----------------------------------------------------------------------------

    def exchange(self) -> None:
        """Through shared memory, across a barrier."""
        value, target = self.pick("r"), self.pick("r")
        by = self.random.randrange(self.threads)
        self.emit(f"mov.u32 %x, tile; mad.lo.u32 %x, %tid, 4, %x; st.shared.u32 [%x], %{value}; bar.sync 0;")
        self.emit(
            f"add.u32 %y, %tid, {by}; rem.u32 %y, %y, {self.threads}; mov.u32 %x, tile; mad.lo.u32 %x, %y, 4, %x;"
        )
        self.emit(f"ld.shared.u32 %{target}, [%x]; bar.sync 0;")
        self.values[target] = np.roll(self.values[value], -by)

    def shuffle(self) -> None:
        value, target = self.pick("r"), self.pick("r")
        mode = self.random.choice(["bfly", "up", "down", "idx"])
        by = self.random.randrange(32)
        clamp = 0 if mode == "up" else 31
        self.emit(f"shfl.sync.{mode}.b32 %{target}|%p0, %{value}, {by}, {clamp}, -1;")
        lane = np.arange(self.threads) & 31
        source = {"bfly": lane ^ by, "up": lane - by, "down": lane + by, "idx": np.full(self.threads, by)}[mode]
        valid = (source >= 0) & (source < 32)
        place = np.where(valid, source, lane) + (np.arange(self.threads) & ~31)
        self.values[target] = self.values[value][place]
        self.values["p0"] = valid

    def vote(self) -> None:
        name, target = self.pick("p"), self.pick("r")
        self.emit(f"vote.sync.ballot.b32 %{target}, %{name}, -1;")
        warps = self.values[name].reshape(-1, 32)
        ballots = (warps.astype(U64) << np.arange(32, dtype=U64)).sum(axis=1).astype(U32)
        self.values[target] = np.repeat(ballots, 32)

    def reduce(self) -> None:
        value, target = self.pick("r"), self.pick("r")
        op, function = self.random.choice([("add.u32", np.add), ("min.u32", np.minimum), ("max.s32", np.maximum),
                                           ("xor.b32", np.bitwise_xor)])  # fmt: skip
        self.emit(f"redux.sync.{op} %{target}, %{value}, -1;")
        rows = self.values[value].reshape(-1, 32)
        rows = s32(rows) if op == "max.s32" else rows
        with np.errstate(all="ignore"):
            total = function.reduce(rows, axis=1, dtype=rows.dtype)
        self.values[target] = np.repeat(total.view(U32), 32)

    def match(self) -> None:
        value, target = self.pick("r"), self.pick("r")
        self.emit(f"and.b32 %x, %{value}, 3; match.any.sync.b32 %{target}, %x, -1;")
        rows = (self.values[value] & U32(3)).reshape(-1, 32)
        same = rows[:, :, None] == rows[:, None, :]
        self.values[target] = (same.astype(U64) << np.arange(32, dtype=U64)).sum(axis=2).astype(U32).ravel()

    def gang(self) -> None:
        """The threads of a branch shuffle among themselves."""
        name, value, target = self.pick("p"), self.pick("r"), self.pick("r")
        skip = self.label()
        self.emit(f"vote.sync.ballot.b32 %x, %{name}, -1; @!%{name} bra {skip};")
        self.emit(f"brev.b32 %y, %x; clz.b32 %y, %y; shfl.sync.idx.b32 %{target}, %{value}, %y, 31, %x; {skip}:")
        rows, mine = self.values[value].reshape(-1, 32), self.values[name].reshape(-1, 32)
        first = rows[np.arange(len(rows)), mine.argmax(axis=1)]
        self.assign(target, np.repeat(first, 32), self.values[name])

    def count(self) -> None:
        """A barrier that counts, and an atomic sum."""
        name, value, target, other = self.pick("p"), self.pick("r"), self.pick("r"), self.pick("r")
        self.emit(f"bar.red.popc.u32 %{target}, 0, %{name};")
        self.values[target] = np.full(self.threads, self.values[name].sum(), U32)
        self.emit("setp.eq.u32 %q0, %tid, 0; @%q0 st.shared.u32 [total], 0; bar.sync 0;")
        self.emit(
            f"@%{name} red.shared.add.u32 [total], %{value}; bar.sync 0; ld.shared.u32 %{other}, [total]; bar.sync 0;"
        )
        with np.errstate(all="ignore"):
            total = self.values[value][self.values[name]].sum(dtype=U32)
        self.values[other] = np.full(self.threads, total, U32)

    def write(self, sections: int) -> None:
        """The program's body."""
        together = (self.exchange, self.shuffle, self.vote, self.reduce, self.match, self.gang, self.count)
        everyone = np.ones(self.threads, bool)
        for _ in range(sections):
            self.block(everyone, 2, self.random.randrange(3, 9))
            if self.random.random() < 0.7:
                self.random.choice(together)()

    def text(self) -> str:
        """PTX that leaves all registers in memory."""
        registers = "".join(f".reg .{kind} %{name}<{count}>;" for name, kind, count in (
            ("r", "b32", COUNTS["r"]), ("d", "b64", COUNTS["d"]), ("f", "f32", COUNTS["f"]), ("p", "pred", COUNTS["p"]),
            ("q", "pred", 4), ("n", "b32", 4)))  # fmt: skip
        load = ["and.b32 %y, %small, 63;"]
        for n in range(COUNTS["r"]):
            load.append(f"add.u32 %r{n}, {'%wild' if n % 2 else '%y'}, {n};")
        for n in range(COUNTS["d"]):
            load.append(f"mul.wide.u32 %d{n}, %wild, {n * 77 + 1};")
        for n in range(COUNTS["f"]):
            load.append(f"cvt.rn.f32.u32 %f{n}, %y; sub.rn.f32 %f{n}, %f{n}, {hex_float(10.0 * n)};")
        for n in range(COUNTS["p"]):
            load.append(f"bfe.u32 %x, %wild, {n}, 1; setp.ne.u32 %p{n}, %x, 0;")
        store = []
        for name in self.values:
            size = 8 if name[0] == "d" else 4
            if name[0] == "p":
                store.append(f"selp.u32 %x, 1, 0, %{name}; st.global.u32 [%out], %x;")
            elif name[0] == "f":
                store.append(f"setp.num.f32 %q0, %{name}, %{name}; mov.b32 %x, %{name};"
                             f"@!%q0 mov.u32 %x, 0x7FFFFFFF; st.global.u32 [%out], %x;")  # fmt: skip
            else:
                store.append(f"st.global.u{8 * size} [%out], %{name};")
            store.append(f"add.u64 %out, %out, {8 * self.threads};")
        return "\n".join([
            ".version 8.0\n.target sm_80\n.address_size 64",
            ".func (.param .u32 c) mix(.param .u32 a, .param .u32 b)",
            "{ .reg .b32 %a; .reg .b32 %b; ld.param.u32 %a, [a]; ld.param.u32 %b, [b]; shl.b32 %b, %b, 3;",
            "xor.b32 %a, %a, %b; add.u32 %a, %a, 7; st.param.u32 [c], %a; ret; }",
            ".visible .entry k(.param .u64 in, .param .u64 out)\n{",
            registers + ".reg .b32 %tid; .reg .b32 %x; .reg .b32 %y; .reg .b32 %wild; .reg .b32 %small;",
            ".reg .b64 %in; .reg .b64 %out; .reg .b64 %mem; .reg .b64 %xl; .reg .b64 %yl;",
            ".local .align 4 .b8 place[8]; .shared .align 4 .b8 tile[4096]; .shared .u32 total;",
            "mov.u32 %tid, %tid.x; mov.u64 %mem, place; ld.param.u64 %in, [in]; ld.param.u64 %out, [out];",
            "mad.wide.u32 %in, %tid, 4, %in; mad.wide.u32 %out, %tid, 8, %out;",
            f"ld.global.u32 %wild, [%in]; ld.global.u32 %small, [%in+{4 * self.threads}];",
            *load, *self.lines, *store, "ret;\n}",
        ])  # fmt: skip

    def expected(self) -> Array:
        """What memory holds afterwards: 64 bits for each register and thread."""
        rows = []
        for name, value in self.values.items():
            if name[0] == "f":
                value = np.where(np.isnan(value), NAN, value).astype(F32).view(U32)
            rows.append(value.astype(U64))
        return np.array(rows)


def hex_float(value: float) -> str:
    return f"0f{int(np.float32(value).view(np.uint32)):08X}"
