"""Reading special registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from migproxy.softgpu.ptx import special

if TYPE_CHECKING:
    from migproxy.softgpu.ptx.emitter import Emitter

_FIELDS = {
    "%ntid.x": "ntx", "%ntid.y": "nty", "%ntid.z": "ntz",
    "%ctaid.x": "cx", "%ctaid.y": "cy", "%ctaid.z": "cz",
    "%nctaid.x": "ncx", "%nctaid.y": "ncy", "%nctaid.z": "ncz",
    "%dynamic_smem_size": "dynamic", "%smid": "worker",
}  # fmt: skip
_ONE = {f"%{name}.{axis}" for name in ("nclusterid", "cluster_nctaid") for axis in "xyz"} | {"%cluster_nctarank"}
_ZERO = {
    "%ctaid.w", "%tid.w", "%is_explicit_cluster", "%cluster_ctarank", "%current_graph_exec", "%gridid",
} | {f"%cluster_ctaid.{axis}" for axis in "xyz"} | {f"%clusterid.{axis}" for axis in "xyz"}  # fmt: skip
_64BIT = {"%gridid", "%current_graph_exec"}


_COMPUTED = {
    "%tid.x", "%tid.y", "%tid.z", "%laneid", "%warpid", "%nwarpid", "%nsmid", "%clock", "%clock_hi", "%clock64",
    "%globaltimer", "%globaltimer_lo", "%globaltimer_hi", "%total_smem_size", "%aggr_smem_size", "%lanemask_eq",
    "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge",
}  # fmt: skip


#: where CUDA's cooperative groups find the workspace of a cooperative launch
_WORKSPACE = ("%envreg1", "%envreg2")


def known(name: str) -> bool:
    """Whether a special register can be read; others are refused by name."""
    return (
        name in special.RESERVED
        or name in _COMPUTED
        or name in _WORKSPACE
        or name in _FIELDS
        or name in _ONE
        or name in _ZERO
    )


def read(e: Emitter, name: str) -> tuple[str, str]:
    """The value of a special register and its LLVM type."""
    if name in ("%tid.x", "%tid.y", "%tid.z"):
        return e.thread_index(name[-1]), "i32"
    if name in _FIELDS:
        return e.field(_FIELDS[name], entry=True), "i32"
    if name == "%laneid":
        return e.op(f"and i32 {e.thread_number()}, 31"), "i32"
    if name == "%warpid":
        return e.op(f"lshr i32 {e.thread_number()}, 5"), "i32"
    if name == "%nwarpid":
        threads = e.field("threads", entry=True)
        return e.op(f"lshr i32 {e.op(f'add i32 {threads}, 31')}, 5"), "i32"
    if name == "%nsmid":
        return "128", "i32"
    if name.startswith("%lanemask_"):
        lane = e.op(f"and i32 {e.thread_number()}, 31")
        bit = e.op(f"shl i32 1, {lane}")
        below = e.op(f"sub i32 {bit}, 1")
        through = e.op(f"or i32 {bit}, {below}")
        if name.endswith("eq"):
            return bit, "i32"
        if name.endswith("lt"):
            return below, "i32"
        if name.endswith("le"):
            return through, "i32"
        return e.op(f"xor i32 {through if name.endswith('gt') else below}, -1"), "i32"
    if name in ("%clock64", "%clock", "%clock_hi"):
        ticks = e.call("i64", "llvm.readcyclecounter")
        return _part(e, ticks, name, "%clock64", "%clock")
    if name.startswith("%globaltimer"):
        return _part(e, e.call("i64", "migproxy_rt_nanoseconds"), name, "%globaltimer", "%globaltimer_lo")
    if name == "%total_smem_size":
        total = e.op(f"add i32 {e.field('static', entry=True)}, {e.field('dynamic', entry=True)}")
        return total, "i32"
    if name == "%aggr_smem_size":
        return read(e, "%total_smem_size")
    if name in special.RESERVED:
        after = name.endswith(("end", "cap"))
        return str(e.gen.reserved_at + (special.RESERVED_BYTES if after else 0)), "i32"
    if name in _ZERO:
        return "0", "i64" if name in _64BIT else "i32"
    if name in _ONE:
        return "1", "i32"
    if name in _WORKSPACE:
        return _part(e, e.field("workspace", entry=True), name, "", "%envreg2")
    raise e.fail(f"not supported: special register {name}")


def _part(e: Emitter, value: str, name: str, whole: str, low: str) -> tuple[str, str]:
    if name == whole:
        return value, "i64"
    if name != low:
        value = e.op(f"lshr i64 {value}, 32")
    return e.op(f"trunc i64 {value} to i32"), "i32"
