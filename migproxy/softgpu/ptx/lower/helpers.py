"""Helper functions in LLVM IR that lowered code calls; each is added to a module once, when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.emitter import Emitter

#: bits 13-14 of MXCSR
_MODES = {"rm": 1, "rp": 2, "rz": 3}
_ASM = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "sqrt": "sqrt"}


def need(e: Emitter, name: str) -> str:
    """Make sure that helper `name` is in the module; returns its symbol."""
    symbol = f"mgp_{name}"
    if symbol not in e.gen.helpers:
        e.gen.helpers[symbol] = _make(name)
    return symbol


def _make(name: str) -> str:
    builder = _BUILDERS.get(name.split("_")[0])
    assert builder is not None, name
    return builder(name)


def rounded(e: Emitter, name: str, mode: str, ty: str, args: list[str]) -> str:
    """An arithmetic operation in a directed rounding mode, done by the processor in that mode."""
    suffix = "s" if ty == "float" else "d"
    symbol = need(e, f"round_{name}_{mode}_{suffix}")
    return e.call(ty, symbol, *[f"{ty} {arg}" for arg in args])


def _round(full: str) -> str:
    _, name, mode, suffix = full.split("_")
    ty = "float" if suffix == "s" else "double"
    count = 3 if name == "fma" else 1 if name == "sqrt" else 2
    params = ", ".join(f"{ty} %a{n}" for n in range(count))
    args = ", ".join(f"{ty} %a{n}" for n in range(count))
    if name == "fma":
        # operands: $0 result tied to the addend: a2 = a0*a1 + a2
        work = f'call {ty} asm sideeffect "vfmadd231s{suffix} $3, $2, $0", "=x,0,x,x"({ty} %a2, {ty} %a0, {ty} %a1)'
    elif name == "sqrt":
        work = f'call {ty} asm sideeffect "sqrts{suffix} $1, $0", "=x,x"({args})'
    else:
        work = f'call {ty} asm sideeffect "{_ASM[name]}s{suffix} $2, $0", "=x,0,x"({args})'
    return f"""
define internal {ty} @mgp_{full}({params}) noinline {{
  %old = alloca i32
  %new = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %old)
  %o = load i32, ptr %old
  %m = and i32 %o, -24577
  %n = or i32 %m, {_MODES[mode] << 13}
  store i32 %n, ptr %new
  call void @llvm.x86.sse.ldmxcsr(ptr %new)
  %r = {work}
  call void @llvm.x86.sse.ldmxcsr(ptr %old)
  ret {ty} %r
}}
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
"""


def _odd(_: str) -> str:
    """double to float, rounding to odd: an inexact result gets an odd significand, so a second rounding is right."""
    return """
define internal float @mgp_odd(double %d) alwaysinline {
  %f = fptrunc double %d to float
  %back = fpext float %f to double
  %inexact = fcmp one double %back, %d
  %bits = bitcast float %f to i32
  %low = and i32 %bits, 1
  %even = icmp eq i32 %low, 0
  %fix = and i1 %inexact, %even
  %ab = call double @llvm.fabs.f64(double %back)
  %ad = call double @llvm.fabs.f64(double %d)
  %over = fcmp ogt double %ab, %ad
  %down = sub i32 %bits, 1
  %up = add i32 %bits, 1
  %moved = select i1 %over, i32 %down, i32 %up
  %out = select i1 %fix, i32 %moved, i32 %bits
  %r = bitcast i32 %out to float
  ret float %r
}
declare double @llvm.fabs.f64(double)
"""


def _fmaodd(_: str) -> str:
    """a*b + c of halves in double: the product is exact, and an inexact sum gets an odd significand."""
    return """
define internal double @mgp_fmaodd(double %a, double %b, double %c) alwaysinline {
  %p = fmul double %a, %b
  %s = fadd double %p, %c
  %cc = fsub double %s, %p
  %pp = fsub double %s, %cc
  %ep = fsub double %p, %pp
  %ec = fsub double %c, %cc
  %err = fadd double %ep, %ec
  %inexact = fcmp one double %err, 0.0
  %bits = bitcast double %s to i64
  %low = and i64 %bits, 1
  %even = icmp eq i64 %low, 0
  %fix = and i1 %inexact, %even
  %more = fcmp ogt double %err, 0.0
  %positive = fcmp ogt double %s, 0.0
  %out = xor i1 %more, %positive
  %step = select i1 %out, i64 -1, i64 1
  %moved = add i64 %bits, %step
  %odd = select i1 %fix, i64 %moved, i64 %bits
  %r = bitcast i64 %odd to double
  ret double %r
}
"""


def _f16(full: str) -> str:
    mode = {"rn": 0, "rm": 1, "rp": 2, "rz": 3}[full.split("_")[1]]
    return f"""
define internal i16 @mgp_{full}(float %x) alwaysinline {{
  %v = insertelement <4 x float> zeroinitializer, float %x, i32 0
  %h = call <8 x i16> @llvm.x86.vcvtps2ph.128(<4 x float> %v, i32 {mode})
  %r = extractelement <8 x i16> %h, i32 0
  ret i16 %r
}}
declare <8 x i16> @llvm.x86.vcvtps2ph.128(<4 x float>, i32)
"""


def _bf16(full: str) -> str:
    mode = full.split("_")[1]
    adjust = {
        "rn": "  %lsb0 = lshr i32 %b, 16\n  %lsb = and i32 %lsb0, 1\n  %bias = add i32 %lsb, 32767",
        "rna": "  %bias = add i32 0, 32768",
        "rz": "  %bias = add i32 0, 0",
        "rp": "  %neg = icmp slt i32 %b, 0\n  %bias = select i1 %neg, i32 0, i32 65535",
        "rm": "  %neg = icmp slt i32 %b, 0\n  %bias = select i1 %neg, i32 65535, i32 0",
    }[mode]
    return f"""
define internal i16 @mgp_{full}(float %x) alwaysinline {{
  %b = bitcast float %x to i32
{adjust}
  %s = add i32 %b, %bias
  %h = lshr i32 %s, 16
  %t = trunc i32 %h to i16
  %nan = fcmp uno float %x, 0.0
  %r = select i1 %nan, i16 32767, i16 %t
  ret i16 %r
}}
"""


_BUILDERS = {"round": _round, "odd": _odd, "fmaodd": _fmaodd, "f16": _f16, "bf16": _bf16}


def transcendental(e: Emitter, name: str, value: str) -> str:
    """sin, cos, lg2, ex2, tanh of a float by the C library's functions, which are exacter than the GPU's."""
    symbol = {"sin": "sinf", "cos": "cosf", "lg2": "log2f", "ex2": "exp2f", "tanh": "tanhf"}[name]
    return e.call("float", symbol, f"float {value}")


def _trunc(full: str) -> str:
    mode = full.split("_")[1]
    return f"""
define internal float @mgp_{full}(double %a) noinline {{
  %old = alloca i32
  %new = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %old)
  %o = load i32, ptr %old
  %m = and i32 %o, -24577
  %n = or i32 %m, {_MODES[mode] << 13}
  store i32 %n, ptr %new
  call void @llvm.x86.sse.ldmxcsr(ptr %new)
  %r = call float asm sideeffect "cvtsd2ss $1, $0", "=x,x"(double %a)
  call void @llvm.x86.sse.ldmxcsr(ptr %old)
  ret float %r
}}
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
"""


def _int(full: str) -> str:
    """A 64-bit integer to a float in a directed mode: round to nearest, compare back, step one unit if needed."""
    _, sign, mode, ty = full.split("_")
    bits = "i32" if ty == "float" else "i64"
    op = "sitofp" if sign == "s" else "uitofp"
    limit = "9223372036854775808.0" if sign == "s" else "18446744073709551616.0"
    back = "fptosi" if sign == "s" else "fptoui"
    less = "slt" if sign == "s" else "ult"
    above = "1" if mode in ("rm",) else "0"
    rz = mode == "rz"
    return f"""
define internal {ty} @mgp_{full}(i64 %a) noinline {{
entry:
  %f = {op} i64 %a to {ty}
  %huge = fcmp oge {ty} %f, {limit}
  br i1 %huge, label %top, label %small
top:
  br label %join
small:
  %b = {back} {ty} %f to i64
  %above = icmp {less} i64 %a, %b
  %below = icmp {less} i64 %b, %a
  br label %join
join:
  %over = phi i1 [ true, %top ], [ %above, %small ]
  %under = phi i1 [ false, %top ], [ %below, %small ]
  %negative = fcmp olt {ty} %f, 0.0
  %down.rz = xor i1 %negative, true
  %want.down = {"and i1 %over, %down.rz" if rz else f"and i1 %over, {above}"}
  %want.up = {"and i1 %under, %negative" if rz else f"and i1 %under, {'true' if mode == 'rp' else 'false'}"}
  %bits = bitcast {ty} %f to {bits}
  %plus = add {bits} %bits, 1
  %minus = sub {bits} %bits, 1
  %lower = select i1 %negative, {bits} %plus, {bits} %minus
  %higher = select i1 %negative, {bits} %minus, {bits} %plus
  %r1 = select i1 %want.down, {bits} %lower, {bits} %bits
  %r2 = select i1 %want.up, {bits} %higher, {bits} %r1
  %r = bitcast {bits} %r2 to {ty}
  ret {ty} %r
}}
"""


def _int64odd(full: str) -> str:
    """A 64-bit integer to a double rounded to odd: drop the low 11 bits into a sticky bit first."""
    sign = full.split("_")[1]
    op = "sitofp" if sign == "s" else "uitofp"
    return f"""
define internal double @mgp_{full}(i64 %a) alwaysinline {{
  %mag.s = call i64 @llvm.abs.i64(i64 %a, i1 false)
  %mag = {"or i64 %mag.s, 0" if sign == "s" else "or i64 %a, 0"}
  %big = icmp uge i64 %mag, 9007199254740992
  %low = and i64 %a, 4095
  %some = icmp ne i64 %low, 0
  %sticky.bit = select i1 %some, i64 2048, i64 0
  %cut = and i64 %a, -4096
  %sticky = or i64 %cut, %sticky.bit
  %v = select i1 %big, i64 %sticky, i64 %a
  %r = {op} i64 %v to double
  ret double %r
}}
declare i64 @llvm.abs.i64(i64, i1)
"""


def _fns(_: str) -> str:
    """Position of the n-th set bit of a mask, counted from a base upwards (or downwards for a negative offset)."""
    return """
define internal i32 @mgp_fns(i32 %mask, i32 %base, i32 %offset) noinline {
entry:
  %zero = icmp eq i32 %offset, 0
  %lowest = icmp eq i32 %offset, -2147483648
  br i1 %lowest, label %overflow, label %start
overflow:  ; its count has no i32: an H100 answers 0
  ret i32 0
start:
  %neg = icmp slt i32 %offset, 0
  %step = select i1 %neg, i32 -1, i32 1
  %count0 = call i32 @llvm.abs.i32(i32 %offset, i1 false)
  br label %loop
loop:
  %p = phi i32 [ %base, %start ], [ %p.next, %more ]
  %left = phi i32 [ %count0, %start ], [ %left.next, %more ]
  %out = icmp ugt i32 %p, 31
  br i1 %out, label %none, label %inside
inside:
  %s = lshr i32 %mask, %p
  %bit = and i32 %s, 1
  br i1 %zero, label %exact, label %counting
exact:
  %set = icmp eq i32 %bit, 1
  %res0 = select i1 %set, i32 %p, i32 -1
  ret i32 %res0
counting:
  %left.next = sub i32 %left, %bit
  %done = icmp eq i32 %left.next, 0
  br i1 %done, label %found, label %more
found:
  ret i32 %p
more:
  %p.next = add i32 %p, %step
  br label %loop
none:
  ret i32 -1
}
declare i32 @llvm.abs.i32(i32, i1)
"""


_BUILDERS.update({"trunc": _trunc, "int": _int, "int64odd": _int64odd, "fns": _fns})
