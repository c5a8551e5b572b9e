"""Instructions whose results on a real GPU are recorded, with their inputs. Needs NumPy only.

`record.py` runs them on a GPU by the driver alone; `test_recorded.py` runs them on the software GPU and compares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEAD = ".version 8.3\n.target sm_80\n.address_size 64\n"
ITEMS = 128


@dataclass(frozen=True)
class Case:
    """One instruction: its text (``{d}``, ``{0}`` … are registers), register types, and how close results must be.

    `ulp` is in units of the last place of the result's type, `absolute` in plain numbers; both 0 means bit for bit
    (any NaN equals any NaN).
    """

    text: str
    dest: str
    sources: tuple[str, ...]
    ulp: int = 0
    absolute: float = 0.0

    @property
    def name(self) -> str:
        return self.text.split(" ")[0] + ("" if self.text.count("{") < 4 else f"/{self.text.count('{') - 1}")


def width(kind: str) -> int:
    """Bits of a register type."""
    return 32 if kind == "pred" else int("".join(c for c in kind.split("x")[0] if c.isdigit()))


def plain(kind: str) -> str:
    """The type in which a register of this type is loaded and stored."""
    return kind if kind in ("f32", "f64") else f"b{width(kind)}"


def kernel_text(text: str, dest: str, sources: tuple[str, ...]) -> str:
    """PTX of a kernel ``k`` that applies an instruction to arrays, one item a thread; predicates become 0 or 1."""
    params = [f".param .u64 p{n}" for n in range(len(sources) + 1)]
    lines = [".reg .b64 %a<20>;", ".reg .b32 %i;", ".reg .pred %q<8>;", ".reg .b32 %w<8>;", ".reg .b64 %x<8>;"]
    lines += [f".reg .{kind} %s{n};" for n, kind in enumerate(sources)]
    lines += [f".reg .{dest} %d;", "mov.u32 %i, %tid.x;"]
    for n, kind in enumerate(sources):
        lines += [f"ld.param.u64 %a{n}, [p{n}];", f"mad.wide.u32 %a{n}, %i, {width(kind) // 8}, %a{n};"]
        lines += [f"ld.global.{plain(kind)} %s{n}, [%a{n}];"]
    last = len(sources)
    lines.append(text.format(*[f"%s{n}" for n in range(last)], d="%d") + ";")
    stored, kind = "%d", plain(dest)
    if dest == "pred":
        lines.append("selp.u32 %w7, 1, 0, %d;")
        stored, kind = "%w7", "b32"
    lines += [f"ld.param.u64 %a{last}, [p{last}];", f"mad.wide.u32 %a{last}, %i, {width(dest) // 8}, %a{last};"]
    lines.append(f"st.global.{kind} [%a{last}], {stored};")
    body = "\n".join(lines)
    return f"{HEAD}.visible .entry k({', '.join(params)}) {{\n{body}\nret;\n}}\n"


def inputs(case: Case, number: int) -> list[np.ndarray]:
    """The source arrays of a case, as unsigned integers of the register's width."""
    rng = np.random.default_rng(number)
    return [_column(rng, kind) for kind in case.sources]


_EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan, 1e-40, 3.4e38, 1e-45, 65504.0, 65520.0,
          1e10, -3e9, 2.0**31, 2.0**63, 2.0**64, 255.5, 1.0 + 2.0**-23, 6e-8, 0.1, 3.0, 100.0, -0.75]  # fmt: skip


def _column(rng: np.random.Generator, kind: str) -> np.ndarray:
    bits = width(kind)
    dtype = np.dtype(f"u{bits // 8}")
    raw = rng.integers(0, 1 << bits, ITEMS, dtype=np.uint64, endpoint=False) if bits < 64 else rng.integers(
        0, np.iinfo(np.uint64).max, ITEMS, dtype=np.uint64, endpoint=True)  # fmt: skip
    if kind[0] == "b":
        small = rng.integers(0, 70, ITEMS, dtype=np.uint64)
        edge = rng.choice(np.array([0, 1, (1 << bits) - 1, 1 << bits - 1, (1 << bits - 1) - 1, 255], np.uint64), ITEMS)
        pick = rng.integers(0, 4, ITEMS)
        return np.where(pick == 0, small, np.where(pick == 1, edge, raw)).astype(dtype)
    with np.errstate(all="ignore"):
        wide = (rng.standard_normal(ITEMS) * 10.0 ** rng.integers(-8, 9, ITEMS)).astype(_float(bits))
        near = rng.standard_normal(ITEMS).astype(_float(bits))
        edge = rng.choice(np.array(_EDGES), ITEMS).astype(_float(bits))
    pick = rng.integers(0, 5, ITEMS)
    values = np.where(pick == 0, edge.view(dtype), np.where(pick == 1, raw.astype(dtype), near.view(dtype)))
    return np.where(pick == 2, wide.view(dtype), values).astype(dtype)


def _float(bits: int) -> type:
    return {16: np.float16, 32: np.float32, 64: np.float64}[bits]


def _make() -> list[Case]:
    out: list[Case] = []

    def add(text: str, dest: str, *sources: str, ulp: int = 0, absolute: float = 0.0) -> None:
        out.append(Case(text, dest, sources, ulp, absolute))

    for kind in ("f32", "f64"):
        for name in ("add.rn", "add.rz", "sub.rn", "mul.rn", "mul.rm", "div.rn", "div.rp", "min", "max", "copysign"):
            add(f"{name}.{kind} {{d}}, {{0}}, {{1}}", kind, kind, kind)
        for mode in ("rn", "rz", "rm", "rp"):
            add(f"fma.{mode}.{kind} {{d}}, {{0}}, {{1}}, {{2}}", kind, kind, kind, kind)
            add(f"sqrt.{mode}.{kind} {{d}}, {{0}}", kind, kind)
            add(f"rcp.{mode}.{kind} {{d}}, {{0}}", kind, kind)
        for mode in ("rni", "rzi", "rmi", "rpi"):
            for dest in ("s16", "u16", "s32", "u32", "s64", "u64"):
                add(f"cvt.{mode}.{dest}.{kind} {{d}}, {{0}}", f"b{dest[1:]}", kind)
            add(f"cvt.{mode}.{kind}.{kind} {{d}}, {{0}}", kind, kind)
        for source in ("s32", "u32", "s64", "u64", "s16"):
            for mode in ("rn", "rz", "rm", "rp"):
                add(f"cvt.{mode}.{kind}.{source} {{d}}, {{0}}", kind, f"b{source[1:]}")
        for op in ("eq", "ne", "lt", "ge", "equ", "neu", "leu", "gtu", "num", "nan"):
            add(f"setp.{op}.{kind} {{d}}, {{0}}, {{1}}", "pred", kind, kind)
        for test in ("finite", "infinite", "number", "notanumber", "normal", "subnormal"):
            add(f"testp.{test}.{kind} {{d}}, {{0}}", "pred", kind)
    for name in ("add.ftz", "mul.ftz", "add.sat", "fma.rn.ftz.sat", "min.ftz", "max.NaN", "min.NaN", "div.rn.ftz"):
        count = 3 if name.startswith("fma") else 2
        add(f"{name}.f32 {{d}}, " + ", ".join(f"{{{n}}}" for n in range(count)), "f32", *["f32"] * count)
    for name in ("abs.ftz", "neg.ftz", "sqrt.rn.ftz", "rcp.rn.ftz"):
        add(f"{name}.f32 {{d}}, {{0}}", "f32", "f32")
    for mode in ("rn", "rz", "rm", "rp"):
        add(f"cvt.{mode}.f32.f64 {{d}}, {{0}}", "f32", "f64")
        add(f"cvt.{mode}.f16.f32 {{d}}, {{0}}", "b16", "f32")
    add("cvt.f64.f32 {d}, {0}", "f64", "f32")
    add("cvt.sat.f32.f32 {d}, {0}", "f32", "f32")
    add("cvt.rn.f16.f64 {d}, {0}", "b16", "f64")
    add("cvt.rn.bf16.f32 {d}, {0}", "b16", "f32")
    add("cvt.rz.bf16.f32 {d}, {0}", "b16", "f32")
    add("cvt.f32.f16 {d}, {0}", "f32", "b16")
    add("cvt.rni.s32.f16 {d}, {0}", "b32", "b16")
    add("cvt.rn.f16.s32 {d}, {0}", "b16", "b32")
    add("cvt.rn.f16.u64 {d}, {0}", "b16", "b64")
    add("cvt.rna.tf32.f32 {d}, {0}", "b32", "f32")
    add("cvt.rn.f16x2.f32 {d}, {0}, {1}", "b32", "f32", "f32")
    add("cvt.rn.relu.bf16x2.f32 {d}, {0}, {1}", "b32", "f32", "f32")
    # approximations: the manual's bounds, for the sum of the GPU's error and ours
    add("div.full.f32 {d}, {0}, {1}", "f32", "f32", "f32", ulp=4)
    add("rcp.approx.f32 {d}, {0}", "f32", "f32", ulp=2)
    add("rcp.approx.ftz.f32 {d}, {0}", "f32", "f32", ulp=2)
    add("sqrt.approx.f32 {d}, {0}", "f32", "f32", ulp=3)
    add("rsqrt.approx.f32 {d}, {0}", "f32", "f32", ulp=3)
    add("ex2.approx.f32 {d}, {0}", "f32", "f32", ulp=3)
    add("ex2.approx.ftz.f32 {d}, {0}", "f32", "f32", ulp=3)
    add("lg2.approx.f32 {d}, {0}", "f32", "f32", ulp=3, absolute=2.0**-22)
    add("tanh.approx.f32 {d}, {0}", "f32", "f32", absolute=2.0**-10)
    for kind in ("f16", "bf16"):
        for name in ("add", "sub", "mul", "fma.rn", "fma.rn.relu", "min", "max", "max.NaN"):
            count = 3 if name.startswith("fma") else 2
            if kind == "bf16" and name in ("add", "sub", "mul"):
                continue  # sm_90
            operands = ", ".join(f"{{{n}}}" for n in range(count))
            add(f"{name}.{kind} {{d}}, {operands}", "b16", *["b16"] * count)
            add(f"{name}.{kind}x2 {{d}}, {operands}", "b32", *["b32"] * count)
    add("ex2.approx.f16 {d}, {0}", "b16", "b16", ulp=2)
    add("tanh.approx.f16 {d}, {0}", "b16", "b16", absolute=2.0**-10)
    add("set.lt.f16.f16 {d}, {0}, {1}", "b16", "b16", "b16")
    for bits in (16, 32, 64):
        for name in ("add.s", "mul.lo.s", "mul.hi.s", "mul.hi.u", "div.s", "div.u", "rem.s", "rem.u", "min.s", "max.u"):
            add(f"{name}{bits} {{d}}, {{0}}, {{1}}", f"b{bits}", f"b{bits}", f"b{bits}")
        for name in ("shl.b", "shr.u", "shr.s"):
            add(f"{name}{bits} {{d}}, {{0}}, {{1}}", f"b{bits}", f"b{bits}", "b32")
        for name in ("abs.s", "neg.s", "not.b", "cnot.b"):
            add(f"{name}{bits} {{d}}, {{0}}", f"b{bits}", f"b{bits}")
        add(f"sad.s{bits} {{d}}, {{0}}, {{1}}, {{2}}", f"b{bits}", *[f"b{bits}"] * 3)
    for bits in (32, 64):
        for name in ("bfe.u", "bfe.s"):
            add(f"{name}{bits} {{d}}, {{0}}, {{1}}, {{2}}", f"b{bits}", f"b{bits}", "b32", "b32")
        add(f"bfi.b{bits} {{d}}, {{0}}, {{1}}, {{2}}, {{3}}", f"b{bits}", f"b{bits}", f"b{bits}", "b32", "b32")
        for name in ("popc.b", "clz.b", "bfind.u", "bfind.s", "bfind.shiftamt.s"):
            add(f"{name}{bits} {{d}}, {{0}}", "b32", f"b{bits}")
        add(f"brev.b{bits} {{d}}, {{0}}", f"b{bits}", f"b{bits}")
    for text in ("prmt.b32", "prmt.b32.f4e", "prmt.b32.b4e", "prmt.b32.rc8", "prmt.b32.ecl", "prmt.b32.ecr",
                 "prmt.b32.rc16", "shf.l.wrap.b32", "shf.r.wrap.b32", "shf.l.clamp.b32", "shf.r.clamp.b32",
                 "mad.hi.sat.s32", "mad24.lo.s32", "mad24.hi.s32", "dp4a.s32.u32", "dp2a.lo.s32.s32",
                 "slct.u32.s32", "fns.b32"):  # fmt: skip
        add(f"{text} {{d}}, {{0}}, {{1}}, {{2}}", "b32", "b32", "b32", "b32")
    for text in ("bmsk.clamp.b32", "bmsk.wrap.b32", "szext.clamp.s32", "szext.wrap.u32", "mul24.lo.s32", "mul24.hi.u32",
                 "add.sat.s32", "sub.sat.s32"):  # fmt: skip
        add(f"{text} {{d}}, {{0}}, {{1}}", "b32", "b32", "b32")
    for dest, source in (
        ("s16", "s32"),
        ("u16", "s32"),
        ("s32", "u64"),
        ("u32", "s64"),
        ("s32", "s64"),
        ("u64", "s32"),
    ):
        add(f"cvt.sat.{dest}.{source} {{d}}, {{0}}", f"b{dest[1:]}", f"b{source[1:]}")
    add("cvt.pack.sat.s16.s32 {d}, {0}, {1}", "b32", "b32", "b32")
    add("cvt.pack.sat.u8.s32.b32 {d}, {0}, {1}, {2}", "b32", "b32", "b32", "b32")
    add("vabsdiff4.u32.u32.u32 {d}, {0}, {1}, {2}", "b32", "b32", "b32", "b32")
    add("vavrg4.s32.s32.s32 {d}, {0}, {1}, {2}", "b32", "b32", "b32", "b32")
    add("vset4.u32.u32.lt {d}, {0}, {1}, {2}", "b32", "b32", "b32", "b32")
    add("vadd2.s32.s32.s32.sat {d}, {0}, {1}, {2}", "b32", "b32", "b32", "b32")
    return out


CASES = _make()
