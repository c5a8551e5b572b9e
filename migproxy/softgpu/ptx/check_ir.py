"""Check mode's runtime, in LLVM IR; see `check`."""

from __future__ import annotations

from collections.abc import Callable

from migproxy.softgpu.ptx import check
from migproxy.softgpu.ptx.irkit import Fn
from migproxy.softgpu.ptx.layout import CONTEXT as C
from migproxy.softgpu.ptx.layout import SHADOW as S

P = "migproxy_rt_"


def _finding(f: Fn, code: int, address: str, line: str, other: str = "0") -> None:
    thread = f.op(f"load volatile i32, ptr {f.place(C, '%tc', 'thread')}")
    f.emit(
        f"call void @{P}fault(ptr %tc, i32 {code}, i32 {thread}, i64 {address}, i64 {other}, "
        f"i64 {f.op(f'zext i32 {line} to i64')}, i64 {address})"
    )


def access() -> str:
    """``void check(ptr tc, i64 address, i32 size, i32 kind, i32 line, ptr value)``: examine one access.

    `value` is what a plain write will write, or null.
    """
    f = Fn("void", f"{P}check", "ptr %tc", "i64 %address", "i32 %size", "i32 %kind", "i32 %line", "ptr %value")
    base = f.op(f"ptrtoint ptr {f.load(C, '%tc', 'shared')} to i64")
    offset = f.op(f"sub i64 %address, {base}")
    with f.when(f.op(f"icmp ult i64 {offset}, 4294967296")):
        f.emit(f"call void @{P}check_shared(ptr %tc, i64 {offset}, i32 %size, i32 %kind, i32 %line, ptr %value)")
        f.ret()
    natural = f.op("call i32 @llvm.umin.i32(i32 %size, i32 16)")
    low = f.op(f"zext i32 {f.op(f'sub i32 {natural}, 1')} to i64")
    with f.when(f.op(f"icmp ne i64 {f.op(f'and i64 %address, {low}')}, 0")):
        _finding(f, check.MISALIGNED, "%address", "%line")
    table = f.load(C, "%tc", "allocations")
    with f.when(f.op(f"icmp eq ptr {table}, null")):
        f.ret()
    # local memory: the threads' area, and the worker's own stack
    local = f.op(f"ptrtoint ptr {f.load(C, '%tc', 'local')} to i64")
    threads = f.op(f"zext i32 {f.load(C, '%tc', 'threads')} to i64")
    span = f.op(f"mul i64 {f.load(C, '%tc', 'local_bytes')}, {threads}")
    with f.when(f.op(f"icmp ult i64 {f.op(f'sub i64 %address, {local}')}, {span}")):
        f.ret()
    mark = f.op(f"ptrtoint ptr {f.op('alloca i8')} to i64")
    near = f.op(f"sub i64 %address, {f.op(f'sub i64 {mark}, 524288')}")
    with f.when(f.op(f"icmp ult i64 {near}, 1048576")):
        f.ret()
    end = f.op(f"add i64 %address, {f.op('zext i32 %size to i64')}")
    row = _row(f, table)
    with f.when(f.op(f"icmp eq ptr {row}, null")):
        _finding(f, check.OUTSIDE, "%address", "%line")
    first, last, shadow = (f.op(f"load i64, ptr {f.op(f'getelementptr i64, ptr {row}, i64 {n}')}") for n in range(3))
    with f.when(f.op(f"icmp ugt i64 {end}, {last}")):
        _finding(f, check.OUTSIDE, "%address", "%line")
    with f.when(f.op(f"icmp eq i64 {shadow}, 0")):
        f.ret()
    place = f.op(f"inttoptr i64 {f.op(f'add i64 {shadow}, ' + f.op(f'sub i64 %address, {first}'))} to ptr")
    with f.when(_reads(f)), f.count_up("0", "%size") as n:
        seen = f.get_item("i8", place, n)
        with f.when(f.op(f"icmp eq i8 {seen}, 0")):
            byte = f.op(f"add i64 %address, {f.op(f'zext i32 {n} to i64')}")
            _finding(f, check.UNWRITTEN_GLOBAL, byte, "%line")
    with f.when(f.op(f"icmp ne i32 %kind, {check.READ}")), f.count_up("0", "%size") as n:
        f.set_item("i8", place, n, "1")
    f.ret()
    return f.text() + _shared()


def _reads(f: Fn) -> str:
    return f.op(f"or i1 {f.op(f'icmp eq i32 %kind, {check.READ}')}, {f.op(f'icmp eq i32 %kind, {check.UPDATE}')}")


def _row(f: Fn, table: str) -> str:
    """The last row of the table that starts at or below the address; null if there is none."""
    low = f.var("i64")
    high = f.var("i64", f.op(f"load i64, ptr {table}"))
    rows = f.op(f"getelementptr i64, ptr {table}, i64 1")
    with f.loop(lambda: f.op(f"icmp ult i64 {low.get()}, {high.get()}")):
        middle = f.op(f"lshr i64 {f.op(f'add i64 {low.get()}, {high.get()}')}, 1")
        start = f.op(f"load i64, ptr {f.op(f'getelementptr [3 x i64], ptr {rows}, i64 {middle}')}")
        below = f.op(f"icmp ule i64 {start}, %address")
        low.set(f.op(f"select i1 {below}, i64 {f.op(f'add i64 {middle}, 1')}, i64 {low.get()}"))
        high.set(f.op(f"select i1 {below}, i64 {high.get()}, i64 {middle}"))
    found = low.get()
    row = f.op(f"getelementptr [3 x i64], ptr {rows}, i64 {f.op(f'sub i64 {found}, 1')}")
    return f.op(f"select i1 {f.op(f'icmp eq i64 {found}, 0')}, ptr null, ptr {row}")


def _shared() -> str:
    """``void check_shared(ptr tc, i64 offset, i32 size, i32 kind, i32 line, ptr value)``."""
    f = Fn("void", f"{P}check_shared", "ptr %tc", "i64 %offset", "i32 %size", "i32 %kind", "i32 %line", "ptr %value")
    static, dynamic = f.load(C, "%tc", "static"), f.load(C, "%tc", "dynamic")
    limit = f.op(f"zext i32 {f.op(f'add i32 {static}, {dynamic}')} to i64")
    end = f.op(f"add i64 %offset, {f.op('zext i32 %size to i64')}")
    with f.when(f.op(f"icmp ugt i64 {end}, {limit}")):
        _finding(f, check.OUTSIDE_SHARED, "%offset", "%line")
    natural = f.op("call i32 @llvm.umin.i32(i32 %size, i32 16)")
    low = f.op(f"zext i32 {f.op(f'sub i32 {natural}, 1')} to i64")
    with f.when(f.op(f"icmp ne i64 {f.op(f'and i64 %offset, {low}')}, 0")):
        _finding(f, check.MISALIGNED, "%offset", "%line")
    shadow, epoch, born = (f.load(C, "%tc", name) for name in ("shadow", "epoch", "born"))
    me = f.op(f"load volatile i32, ptr {f.place(C, '%tc', 'thread')}")
    warp = f.op(f"lshr i32 {me}, 5")
    warp_epoch = f.get_item("i32", f.place(C, "%tc", "warp_epochs"), warp)
    with f.count_up("0", "%size") as n:
        byte = f.op(f"add i64 %offset, {f.op(f'zext i32 {n} to i64')}")
        entry = f.op(f"getelementptr i8, ptr {shadow}, i64 {f.op(f'mul i64 {byte}, {S.size}')}")
        write_epoch, writer = f.load(S, entry, "write_epoch"), f.load(S, entry, "writer")
        read_epoch, reader = f.load(S, entry, "read_epoch"), f.load(S, entry, "reader")

        def apart(who: str, stamp: str) -> str:
            """Whether `who`'s access, at a warp epoch, is not ordered before mine by a warp operation."""
            same_warp = f.op(f"icmp eq i32 {f.op(f'lshr i32 {who}, 5')}, {warp}")
            later = f.op(f"icmp ugt i32 {warp_epoch}, {stamp}")
            return f.op(f"xor i1 {f.op(f'and i1 {same_warp}, {later}')}, true")

        with f.when(_reads(f)), f.when(f.op(f"icmp ult i32 {write_epoch}, {born}")):
            _finding(f, check.UNWRITTEN, byte, "%line")
        with f.when(f.op(f"icmp eq i32 %kind, {check.READ}")):
            fresh = f.op(f"icmp eq i32 {write_epoch}, {epoch}")
            foreign = f.op(f"icmp ne i32 {writer}, {me}")
            plain = f.op(f"icmp eq i32 {f.load(S, entry, 'atomic')}, 0")
            clash = f.op(f"and i1 {f.op(f'and i1 {fresh}, {foreign}')}, {plain}")
            clash = f.op(f"and i1 {clash}, {apart(writer, f.load(S, entry, 'write_warp'))}")
            with f.when(clash):
                _finding(f, check.RACE_READ, byte, "%line", f.op(f"zext i32 {writer} to i64"))
            again = f.op(f"icmp eq i32 {read_epoch}, {epoch}")
            other = f.op(f"icmp ne i32 {reader}, {me}")
            many = f.op(f"and i1 {again}, {other}")
            f.store(S, entry, "reader", f.op(f"select i1 {many}, i32 {check.SEVERAL}, i32 {me}"))
            f.store(S, entry, "read_epoch", epoch)
            f.store(S, entry, "read_warp", warp_epoch)
        with f.when(f.op(f"icmp ne i32 %kind, {check.READ}")):
            fresh = f.op(f"icmp eq i32 {read_epoch}, {epoch}")
            foreign = f.op(f"icmp ne i32 {reader}, {me}")
            plain = f.op(f"icmp eq i32 %kind, {check.WRITE}")
            # several readers: known to be of one warp only by the last one's stamp, so give the benefit of the doubt
            ordered = f.op(f"icmp ugt i32 {warp_epoch}, {f.load(S, entry, 'read_warp')}")
            several = f.op(f"icmp eq i32 {reader}, {check.SEVERAL}")
            excused = f.op(f"and i1 {several}, {ordered}")
            clash = f.op(f"and i1 {f.op(f'and i1 {fresh}, {foreign}')}, {plain}")
            clash = f.op(f"and i1 {clash}, {apart(reader, f.load(S, entry, 'read_warp'))}")
            clash = f.op(f"and i1 {clash}, {f.op(f'xor i1 {excused}, true')}")
            with f.when(clash):
                _finding(f, check.RACE_WRITE, byte, "%line", f.op(f"zext i32 {reader} to i64"))
            _other_value(f, entry, byte, n, plain, me, apart)
            f.store(S, entry, "write_epoch", epoch)
            f.store(S, entry, "writer", me)
            f.store(S, entry, "write_warp", warp_epoch)
            f.store(S, entry, "atomic", f.op(f"zext i1 {f.op('xor i1 ' + plain + ', true')} to i32"))
    f.ret()
    return f.text()


def _other_value(f: Fn, entry: str, byte: str, n: str, plain: str, me: str, apart: Callable[[str, str], str]) -> None:
    """A finding where another thread's plain write, not ordered before this one, left another value."""
    writer = f.load(S, entry, "writer")
    now = f.op(f"icmp eq i32 {f.load(S, entry, 'write_epoch')}, {f.load(C, '%tc', 'epoch')}")
    both = f.op(f"and i1 {plain}, {f.op('icmp eq i32 ' + f.load(S, entry, 'atomic') + ', 0')}")
    foreign = f.op(f"icmp ne i32 {writer}, {me}")
    clash = f.op(f"and i1 {f.op(f'and i1 {now}, {both}')}, {foreign}")
    clash = f.op(f"and i1 {clash}, {apart(writer, f.load(S, entry, 'write_warp'))}")
    clash = f.op(f"and i1 {clash}, {f.op('icmp ne ptr %value, null')}")
    with f.when(clash):
        there = f.op(f"load i8, ptr {f.op('getelementptr i8, ptr ' + f.load(C, '%tc', 'shared') + f', i64 {byte}')}")
        with f.when(f.op(f"icmp ne i8 {there}, {f.get_item('i8', '%value', n)}")):
            _finding(f, check.RACE_VALUES, byte, "%line", f.op(f"zext i32 {writer} to i64"))
