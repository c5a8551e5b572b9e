"""The scheduler of one block's threads, in LLVM IR.

As long as all threads of the block are at the same suspend point, regions take all of them to the next. Otherwise
threads run one after another, each to its next suspend point. Within a warp, an operation of a group of lanes (the
lanes of its mask that have not exited) is resolved when all of them wait at an operation of the same kind with the same
mask. When no lane of any warp can go on, barriers are resolved; when none can be, the threads wait for each other for
ever: a fault.
"""

from __future__ import annotations

from collections.abc import Callable

from migproxy.softgpu.ptx import check
from migproxy.softgpu.ptx.funcgen import BARRIER_WAIT, DONE, READY, WARP_WAIT, YIELDED
from migproxy.softgpu.ptx.irkit import Fn
from migproxy.softgpu.ptx.layout import CONTEXT as C
from migproxy.softgpu.ptx.lower import warp

P = "migproxy_rt_"
#: how lenient `groups` is: not at all (0), with every operation, with activemask alone
ANY, MASKS = 1, 2
#: status of a block whose threads wait for each other for ever
DEADLOCK = 702


def resolve() -> str:
    """``void resolve(ptr tc, i32 base, i32 group, i32 kind)``: complete a warp operation for the lanes in `group`."""
    f = Fn("void", f"{P}resolve", "ptr %tc", "i32 %base", "i32 %group", "i32 %kind")
    value, aux = f.load(C, "%tc", "value"), f.load(C, "%tc", "aux")
    result, group, state = f.load(C, "%tc", "result"), f.load(C, "%tc", "group"), f.load(C, "%tc", "state")
    first = f.op("call i32 @llvm.cttz.i32(i32 %group, i1 false)")
    lead = f.get_item("i64", value, f.op(f"add i32 %base, {first}"))
    total = f.var("i32", f.op(f"trunc i64 {lead} to i32"))
    ballot = f.var("i32")
    same = f.var("i32")
    with f.count_up("0", "32") as lane:
        bit = f.op(f"shl i32 1, {lane}")
        with f.when(f.op(f"icmp ne i32 {f.op(f'and i32 %group, {bit}')}, 0")):
            wide = f.get_item("i64", value, f.op(f"add i32 %base, {lane}"))
            item = f.op(f"trunc i64 {wide} to i32")
            with f.when(f.op(f"icmp ne i64 {wide}, 0")):
                ballot.set(f.op(f"or i32 {ballot.get()}, {bit}"))
            with f.when(f.op(f"icmp eq i64 {wide}, {lead}")):
                same.set(f.op(f"or i32 {same.get()}, {bit}"))
            with f.when(f.op(f"icmp ne i32 {lane}, {first}")):
                for name, code in warp.REDUX.items():
                    with f.when(f.op(f"icmp eq i32 %kind, {code}")):
                        now = total.get()
                        if name in ("add", "and", "or", "xor"):
                            total.set(f.op(f"{name} i32 {now}, {item}"))
                        else:
                            full = name if name[0] == "u" else f"s{name}"
                            total.set(f.op(f"call i32 @llvm.{full}.i32(i32 {now}, i32 {item})"))
    everyone = f.op(f"icmp eq i32 {same.get()}, %group")
    answer = f.var("i64")
    answer.set(f.op(f"zext i32 {total.get()} to i64"))
    for code, outcome in (
        (warp.VOTE, ballot.get()),
        (warp.ACTIVE, "%group"),
        (warp.ELECT, first),
        (warp.MATCH_ALL, f.op(f"select i1 {everyone}, i32 %group, i32 0")),
    ):
        with f.when(f.op(f"icmp eq i32 %kind, {code}")):
            answer.set(f.op(f"zext i32 {outcome} to i64"))
    with f.count_up("0", "32") as lane:
        bit = f.op(f"shl i32 1, {lane}")
        with f.when(f.op(f"icmp ne i32 {f.op(f'and i32 %group, {bit}')}, 0")):
            thread = f.op(f"add i32 %base, {lane}")
            with f.when(f.op(f"icmp eq i32 %kind, {warp.SHFL}")):
                source = f.op(f"and i32 {f.get_item('i32', aux, thread)}, 31")
                answer.set(f.get_item("i64", value, f.op(f"add i32 %base, {source}")))
            with f.when(f.op(f"icmp eq i32 %kind, {warp.MATCH_ANY}")):
                mine = f.get_item("i64", value, thread)
                found = f.var("i32")
                found.set("0")
                with f.count_up("0", "32") as other:
                    other_bit = f.op(f"shl i32 1, {other}")
                    with f.when(f.op(f"icmp ne i32 {f.op(f'and i32 %group, {other_bit}')}, 0")):
                        theirs = f.get_item("i64", value, f.op(f"add i32 %base, {other}"))
                        with f.when(f.op(f"icmp eq i64 {theirs}, {mine}")):
                            found.set(f.op(f"or i32 {found.get()}, {other_bit}"))
                answer.set(f.op(f"zext i32 {found.get()} to i64"))
            f.set_item("i64", result, thread, answer.get())
            f.set_item("i32", group, thread, "%group")
            f.set_item("i8", state, thread, str(READY))
    f.ret()
    return f.text() + _groups()


def _groups() -> str:
    """``i32 groups(ptr tc, i32 base, i32 live, i32 waiting, i32 lenient)``: resolve what can be; lanes released.

    `live` and `waiting` are lane masks. Lenient: also operations whose group can never be complete, as long as the
    lanes wait at the same one (activemask, and masks that name lanes which went elsewhere); or only activemask, while
    other lanes poll: what they wait for may be beyond it.
    """
    f = Fn("i32", f"{P}groups", "ptr %tc", "i32 %base", "i32 %live", "i32 %waiting", "i32 %lenient")
    kind, mask, aux = f.load(C, "%tc", "kind"), f.load(C, "%tc", "mask"), f.load(C, "%tc", "resume")
    left = f.var("i32", "%waiting")
    released = f.var("i32")
    with f.loop(lambda: f.op(f"icmp ne i32 {left.get()}, 0")):
        now = left.get()
        first = f.op(f"call i32 @llvm.cttz.i32(i32 {now}, i1 false)")
        # lenient: those furthest behind in the program first, as a GPU would to bring lanes together again
        behind = f.var("i32")
        behind.set(first)
        with f.when(f.op("icmp ne i32 %lenient, 0")), f.count_up(first, "32") as lane:
            waits = f.op(f"and i32 {now}, {f.op(f'shl i32 1, {lane}')}")
            with f.when(f.op(f"icmp ne i32 {waits}, 0")):
                here = f.get_item("i32", aux, f.op(f"add i32 %base, {lane}"))
                least = f.get_item("i32", aux, f.op(f"add i32 %base, {behind.get()}"))
                with f.when(f.op(f"icmp slt i32 {here}, {least}")):
                    behind.set(lane)
        first = behind.get()
        lead = f.op(f"add i32 %base, {first}")
        my_kind, my_mask, my_point = (f.get_item("i32", array, lead) for array in (kind, mask, aux))
        active = f.op(f"icmp eq i32 {my_kind}, {warp.ACTIVE}")
        loose = f.op(f"or i1 {active}, {f.op('icmp ne i32 %lenient, 0')}")
        group = f.var("i32")
        group.set("0")
        with f.count_up("0", "32") as lane:
            bit = f.op(f"shl i32 1, {lane}")
            with f.when(f.op(f"icmp ne i32 {f.op(f'and i32 {now}, {bit}')}, 0")):
                thread = f.op(f"add i32 %base, {lane}")
                same_kind = f.op(f"icmp eq i32 {f.get_item('i32', kind, thread)}, {my_kind}")
                same_mask = f.op(f"icmp eq i32 {f.get_item('i32', mask, thread)}, {my_mask}")
                same_point = f.op(f"icmp eq i32 {f.get_item('i32', aux, thread)}, {my_point}")
                by_point = f.op(f"and i1 {loose}, {same_point}")
                by_mask = f.op(f"and i1 {f.op(f'xor i1 {loose}, true')}, {same_mask}")
                fits = f.op(f"and i1 {same_kind}, {f.op(f'or i1 {by_point}, {by_mask}')}")
                with f.when(fits):
                    group.set(f.op(f"or i32 {group.get()}, {bit}"))
        left.set(f.op(f"and i32 {now}, {f.op(f'xor i32 {group.get()}, -1')}"))
        needed = f.op(f"and i32 {my_mask}, %live")
        complete = f.op(f"icmp eq i32 {needed}, {f.op(f'and i32 {group.get()}, {needed}')}")
        complete = f.op(f"and i1 {complete}, {f.op(f'xor i1 {active}, true')}")
        # activemask: all live lanes there is as good as complete
        gathered = f.op(f"and i1 {active}, {f.op(f'icmp eq i32 {group.get()}, %live')}")
        forced = f.op(f"icmp eq i32 %lenient, {ANY}")
        masks = f.op(f"icmp eq i32 %lenient, {MASKS}")
        forced = f.op(f"or i1 {forced}, {f.op(f'and i1 {masks}, {active}')}")
        go = f.op(f"or i1 {f.op(f'or i1 {complete}, {gathered}')}, {forced}")
        with f.when(go):
            _next_warp_epoch(f, "%base")
            f.emit(f"call void @{P}resolve(ptr %tc, i32 %base, i32 {group.get()}, i32 {my_kind})")
            released.set(f.op(f"or i32 {released.get()}, {group.get()}"))
            # lenient: one group at a time, the rest may join it on the way
            with f.when(f.op("icmp ne i32 %lenient, 0")):
                f.ret(f"i32 {released.get()}")
    f.ret(f"i32 {released.get()}")
    return f.text()


def block() -> str:
    """``void block(ptr tc, ptr step, ptr region, ptr points)``: run one block's threads to their end.

    As long as all threads are at the same suspend point, a region takes them all to the next one, and the operation is
    resolved for all at once. Where they part, each is stepped on its own until they meet again at a barrier.
    """
    f = Fn("void", f"{P}block", "ptr %tc", "ptr %step", "ptr %region", "ptr %points")
    f.emit(f"store [16 x i32] zeroinitializer, ptr {f.place(C, '%tc', 'pending')}")
    prepared = f.var("i32")
    point = f.var("i32")
    with f.loop(lambda: "true"):
        f.store(C, "%tc", "thread", "-1")
        back = f.op(f"call i32 %region(ptr %tc, i32 {point.get()})")
        with f.when(f.op(f"icmp eq i32 {back}, {DONE}")):
            f.ret()
        state = f.op(f"and i32 {back}, 255")
        there = f.op(f"lshr i32 {back}, 8")
        apart = f.var("i32")
        apart.set("1")
        with f.when(f.op(f"icmp sge i32 {back}, 0")):
            row = f.op(f"getelementptr [2 x i32], ptr %points, i32 {there}")
            kind = f.op(f"load i32, ptr {row}")
            barrier = f.op(f"load i32, ptr {f.op(f'getelementptr i32, ptr {row}, i64 1')}")
            with f.when(f.op(f"icmp sge i32 {barrier}, 0")):
                apart.set("0")
                _next_epoch(f)
            with f.when(f.op(f"icmp eq i32 {state}, {WARP_WAIT}")):
                apart.set(f.op(f"call i32 @{P}together(ptr %tc, i32 {kind})"))
            with f.when(f.op(f"icmp eq i32 {state}, {YIELDED}")):
                apart.set("0")
                f.emit(f"call void @{P}spin(ptr %tc)")
            point.set(there)
        with f.when(f.op(f"icmp ne i32 {apart.get()}, 0")):
            with f.when(f.op(f"icmp eq i32 {prepared.get()}, 0")):
                f.emit(f"call void @{P}prepare(ptr %tc)")
                prepared.set("1")
            met = f.op(f"call i32 @{P}scattered(ptr %tc, ptr %step, ptr %points)")
            with f.when(f.op(f"icmp slt i32 {met}, 0")):
                f.ret()
            point.set(met)
    return f.text() + _together() + _scattered() + _met() + _post() + _prepare() + _warp() + _barriers()


def _next_epoch(f: Fn) -> None:
    """Note that a barrier was passed, for check mode."""
    f.store(C, "%tc", "epoch", f.op(f"add i32 {f.load(C, '%tc', 'epoch')}, 1"))


def _next_warp_epoch(f: Fn, thread: str) -> None:
    """Note that the warp of a thread did a warp operation, for check mode."""
    epochs = f.place(C, "%tc", "warp_epochs")
    warp_ = f.op(f"lshr i32 {thread}, 5")
    f.set_item("i32", epochs, warp_, f.op(f"add i32 {f.get_item('i32', epochs, warp_)}, 1"))


def _together() -> str:
    """``i32 together(ptr tc, i32 kind)``: resolve a warp operation at which all threads wait; 1 if masks forbid it."""
    f = Fn("i32", f"{P}together", "ptr %tc", "i32 %kind")
    threads, mask = f.load(C, "%tc", "threads"), f.load(C, "%tc", "mask")
    value, aux, result = f.load(C, "%tc", "value"), f.load(C, "%tc", "aux"), f.load(C, "%tc", "result")
    every = f.var("i32", "-1")
    with f.count_up("0", threads) as t:
        every.set(f.op(f"and i32 {every.get()}, {f.get_item('i32', mask, t)}"))
    with f.when(f.op(f"icmp ne i32 {every.get()}, -1")):
        f.ret("i32 1")
    base = f.var("i32")
    with f.loop(lambda: f.op(f"icmp slt i32 {base.get()}, {threads}")):
        _next_warp_epoch(f, base.get())
        base.add("32")
    with f.when(f.op(f"icmp eq i32 %kind, {warp.SYNC}")):
        f.ret("i32 0")
    with f.when(f.op(f"icmp eq i32 %kind, {warp.SHFL}")):
        with f.count_up("0", threads) as t:
            source = f.op(f"and i32 {f.get_item('i32', aux, t)}, 31")
            at = f.op(f"or i32 {f.op(f'and i32 {t}, -32')}, {source}")
            f.set_item("i64", result, t, f.get_item("i64", value, at))
        f.ret("i32 0")
    base.set("0")
    with f.loop(lambda: f.op(f"icmp slt i32 {base.get()}, {threads}")):
        now = base.get()
        left = f.op(f"call i32 @llvm.smin.i32(i32 {f.op(f'sub i32 {threads}, {now}')}, i32 32)")
        full = f.op(f"lshr i32 -1, {f.op(f'sub i32 32, {left}')}")
        f.emit(f"call void @{P}resolve(ptr %tc, i32 {now}, i32 {full}, i32 %kind)")
        base.set(f.op(f"add i32 {now}, 32"))
    f.ret("i32 0")
    return f.text()


def _post() -> str:
    """``void post(ptr tc, ptr points, i32 thread, i32 back)``: note what a step of one thread returned."""
    f = Fn("void", f"{P}post", "ptr %tc", "ptr %points", "i32 %thread", "i32 %back")
    state = f.op("trunc i32 %back to i8")
    point = f.op("lshr i32 %back, 8")
    f.set_item("i32", f.load(C, "%tc", "resume"), "%thread", point)
    yielded = f.op(f"icmp eq i8 {state}, {YIELDED}")
    kept = f.op(f"select i1 {yielded}, i8 {READY}, i8 {state}")
    f.set_item("i8", f.load(C, "%tc", "state"), "%thread", kept)
    row = f.op(f"getelementptr [2 x i32], ptr %points, i32 {point}")
    f.set_item("i32", f.load(C, "%tc", "kind"), "%thread", f.op(f"load i32, ptr {row}"))
    barrier = f.op(f"load i32, ptr {f.op(f'getelementptr i32, ptr {row}, i64 1')}")
    with f.when(f.op(f"icmp sge i32 {barrier}, 0")):
        f.set_item("i32", f.load(C, "%tc", "mask"), "%thread", barrier)
        f.set_item("i32", f.load(C, "%tc", "aux"), "%thread", "0")
    with f.when(f.op(f"icmp eq i8 {state}, {DONE}")):
        f.store(C, "%tc", "exited", f.op(f"add i32 {f.load(C, '%tc', 'exited')}, 1"))
    f.ret()
    return f.text()


def _scattered() -> str:
    """``i32 scattered(ptr tc, ptr step, ptr points)``: step threads on their own, from what the region returned.

    Returns the suspend point at which all have met again, or −1 when all have exited.
    """
    f = Fn("i32", f"{P}scattered", "ptr %tc", "ptr %step", "ptr %points")
    threads, returned = f.load(C, "%tc", "threads"), f.load(C, "%tc", "returned")
    f.store(C, "%tc", "exited", "0")
    with f.count_up("0", threads) as t:
        f.emit(f"call void @{P}post(ptr %tc, ptr %points, i32 {t}, i32 {f.get_item('i32', returned, t)})")
    with f.loop(lambda: "true"):
        yielded = f.var("i32")
        yielded.set("0")
        base = f.var("i32")
        base.set("0")
        with f.loop(lambda: f.op(f"icmp slt i32 {base.get()}, {threads}")):
            now = base.get()
            here = f.op(f"call i32 @{P}warp(ptr %tc, ptr %step, ptr %points, i32 {now})")
            yielded.set(f.op(f"or i32 {yielded.get()}, {here}"))
            base.set(f.op(f"add i32 {now}, 32"))
        live = f.op(f"sub i32 {threads}, {f.load(C, '%tc', 'exited')}")
        with f.when(f.op(f"icmp sle i32 {live}, 0")):
            f.ret("i32 -1")
        released = f.op(f"call i32 @{P}barriers(ptr %tc, i32 {live})")
        stuck = f.op(f"icmp eq i32 {f.op(f'or i32 {released}, {yielded.get()}')}, 0")
        with f.when(stuck):
            state, resume = f.load(C, "%tc", "state"), f.load(C, "%tc", "resume")
            with f.count_up("0", threads) as t:
                now = f.get_item("i8", state, t)
                waits = f.op(f"or i1 {f.op(f'icmp eq i8 {now}, {BARRIER_WAIT}')}, "
                             f"{f.op(f'icmp eq i8 {now}, {WARP_WAIT}')}")  # fmt: skip
                with f.when(waits):
                    point = f.op(f"zext i32 {f.get_item('i32', resume, t)} to i64")
                    f.emit(f"call void @{P}fault(ptr %tc, i32 {DEADLOCK}, i32 {t}, i64 0, i64 0, i64 {point}, i64 0)")
        with f.when(f.op(f"icmp eq i32 {released}, 0")):
            f.emit(f"call void @{P}spin(ptr %tc)")
        with f.when(f.op(f"icmp eq i32 {live}, {threads}")):
            met = f.op(f"call i32 @{P}met(ptr %tc)")
            with f.when(f.op(f"icmp sge i32 {met}, 0")):
                f.ret(f"i32 {met}")
    return f.text()


def _met() -> str:
    """``i32 met(ptr tc)``: the suspend point from which all threads can go on, or −1."""
    f = Fn("i32", f"{P}met", "ptr %tc")
    threads, state = f.load(C, "%tc", "threads"), f.load(C, "%tc", "state")
    resume = f.load(C, "%tc", "resume")
    point = f.op(f"load i32, ptr {resume}")
    apart = f.var("i32")
    with f.count_up("0", threads) as t:
        ready = f.op(f"icmp ne i8 {f.get_item('i8', state, t)}, {READY}")
        other = f.op(f"icmp ne i32 {f.get_item('i32', resume, t)}, {point}")
        differs = f.op(f"zext i1 {f.op(f'or i1 {ready}, {other}')} to i32")
        apart.set(f.op(f"or i32 {apart.get()}, {differs}"))
    same = f.op(f"icmp eq i32 {apart.get()}, 0")
    f.ret(f"i32 {f.op(f'select i1 {same}, i32 {point}, i32 -1')}")
    return f.text()


def _prepare() -> str:
    """Compute thread indices, for stepping threads on their own."""
    f = Fn("void", f"{P}prepare", "ptr %tc")
    threads = f.load(C, "%tc", "threads")
    xs, ys, zs = (f.load(C, "%tc", f"tid{axis}") for axis in "xyz")
    ntx, nty = f.load(C, "%tc", "ntx"), f.load(C, "%tc", "nty")
    x, y, z = f.var("i32"), f.var("i32"), f.var("i32")
    with f.count_up("0", threads) as t:
        for array, var in ((xs, x), (ys, y), (zs, z)):
            f.set_item("i32", array, t, var.get())
        x.add("1")
        with f.when(f.op(f"icmp eq i32 {x.get()}, {ntx}")):
            x.set("0")
            y.add("1")
            with f.when(f.op(f"icmp eq i32 {y.get()}, {nty}")):
                y.set("0")
                z.add("1")
    f.ret()
    return f.text()


def _warp() -> str:
    """``i32 warp(ptr tc, ptr step, ptr points, i32 base)``: run a warp until its lanes wait at barriers or have exited.

    Returns 1 when a lane yielded (it can go on, but other warps should have a turn first).
    """
    f = Fn("i32", f"{P}warp", "ptr %tc", "ptr %step", "ptr %points", "i32 %base")
    threads, state = f.load(C, "%tc", "threads"), f.load(C, "%tc", "state")
    resume = f.load(C, "%tc", "resume")
    indices = [f.load(C, "%tc", f"tid{axis}") for axis in "xyz"]
    limit = f.op("add i32 %base, 32")
    stop = f.op(f"call i32 @llvm.smin.i32(i32 {limit}, i32 {threads})")
    yields = f.var("i32")
    with f.loop(lambda: "true") as leave:
        live, waiting = f.var("i32"), f.var("i32")
        for var in (live, waiting):
            var.set("0")
        yields.set("0")
        with f.count_up("%base", stop) as t:
            now = f.var("i8")
            now.set(f.get_item("i8", state, t))
            with f.when(f.op(f"icmp eq i8 {now.get()}, {READY}")):
                f.store(C, "%tc", "thread", t)
                at = f.get_item("i32", resume, t)
                x, y, z = (f.get_item("i32", array, t) for array in indices)
                for axis, index in zip("xyz", (x, y, z), strict=True):
                    f.store(C, "%tc", f"t{axis}", index)
                back = f.op(f"call i32 %step(ptr %tc, i32 {t}, i32 {at}, i32 {x}, i32 {y}, i32 {z})")
                f.emit(f"call void @{P}post(ptr %tc, ptr %points, i32 {t}, i32 {back})")
                after = f.op(f"trunc i32 {back} to i8")
                now.set(after)
                with f.when(f.op(f"icmp eq i8 {after}, {YIELDED}")):
                    yields.set("1")
            bit = f.op(f"shl i32 1, {f.op(f'sub i32 {t}, %base')}")
            with f.when(f.op(f"icmp ne i8 {now.get()}, {DONE}")):
                live.set(f.op(f"or i32 {live.get()}, {bit}"))
            with f.when(f.op(f"icmp eq i8 {now.get()}, {WARP_WAIT}")):
                waiting.set(f.op(f"or i32 {waiting.get()}, {bit}"))
        with f.when(f.op(f"icmp eq i32 {waiting.get()}, 0")):
            f.jump(leave)
        released = f.var("i32")
        released.set(f.op(f"call i32 @{P}groups(ptr %tc, i32 %base, i32 {live.get()}, i32 {waiting.get()}, i32 0)"))
        with f.when(f.op(f"icmp eq i32 {released.get()}, 0")):
            polling = f.op(f"icmp ne i32 {yields.get()}, 0")
            how = f.op(f"select i1 {polling}, i32 {MASKS}, i32 {ANY}")
            lanes = f"i32 {live.get()}, i32 {waiting.get()}"
            released.set(f.op(f"call i32 @{P}groups(ptr %tc, i32 %base, {lanes}, i32 {how})"))
        with f.when(f.op(f"icmp eq i32 {released.get()}, 0")):
            f.jump(leave)
    f.ret(f"i32 {yields.get()}")
    return f.text()


def _divergent(f: Fn, threads: str, mask: str, waiting: Callable[[str], str]) -> None:
    """In check mode: lanes of one warp at one barrier, but at different instructions, are a finding."""
    resume = f.load(C, "%tc", "resume")
    with f.when(f.op(f"icmp ne ptr {f.load(C, '%tc', 'shadow')}, null")), f.count_up("1", threads) as t:
        before = f.op(f"sub i32 {t}, 1")
        same_warp = f.op(f"icmp ne i32 {f.op(f'and i32 {t}, 31')}, 0")
        both = f.op(f"and i1 {waiting(t)}, {waiting(before)}")
        here, there = f.get_item("i32", resume, t), f.get_item("i32", resume, before)
        differ = f.op(f"icmp ne i32 {here}, {there}")
        number = f.op(f"icmp eq i32 {f.get_item('i32', mask, t)}, {f.get_item('i32', mask, before)}")
        found = f.op(f"and i1 {f.op(f'and i1 {same_warp}, {both}')}, {f.op(f'and i1 {differ}, {number}')}")
        with f.when(found):
            mine, theirs = (f.op(f"zext i32 {point} to i64") for point in (here, there))
            code = check.DIVERGENT
            f.emit(f"call void @{P}fault(ptr %tc, i32 {code}, i32 {t}, i64 0, i64 {theirs}, i64 {mine}, i64 0)")


def _barriers() -> str:
    """``i32 barriers(ptr tc, i32 live)``: release the barriers at which enough threads wait; 1 when any was."""
    f = Fn("i32", f"{P}barriers", "ptr %tc", "i32 %live")
    threads, state = f.load(C, "%tc", "threads"), f.load(C, "%tc", "state")
    kind, mask, aux = (f.load(C, "%tc", name) for name in ("kind", "mask", "aux"))
    value, result = f.load(C, "%tc", "value"), f.load(C, "%tc", "result")
    counts, sums, wants = (f.op("alloca [16 x i32]") for _ in range(3))
    for array in (counts, sums, wants):
        f.emit(f"store [16 x i32] zeroinitializer, ptr {array}")
    any_ = f.var("i32")

    def waiting(t: str) -> str:
        return f.op(f"icmp eq i8 {f.get_item('i8', state, t)}, {BARRIER_WAIT}")

    with f.count_up("0", threads) as t, f.when(waiting(t)):
        number = f.get_item("i32", mask, t)
        f.set_item("i32", counts, number, f.op(f"add i32 {f.get_item('i32', counts, number)}, 1"))
        f.set_item("i32", wants, number, f.get_item("i32", aux, t))
        with f.when(f.op(f"icmp ne i32 {f.get_item('i32', kind, t)}, {warp.BAR}")):
            flag = f.op(f"trunc i64 {f.get_item('i64', value, t)} to i32")
            f.set_item("i32", sums, number, f.op(f"add i32 {f.get_item('i32', sums, number)}, {flag}"))
    _divergent(f, threads, mask, waiting)
    pending = f.place(C, "%tc", "pending")
    with f.count_up("0", threads) as t, f.when(waiting(t)):
        number = f.get_item("i32", mask, t)
        count = f.get_item("i32", counts, number)
        arrived = f.op(f"add i32 {count}, {f.get_item('i32', pending, number)}")
        asked = f.get_item("i32", wants, number)
        everyone = f.op(f"icmp eq i32 {asked}, 0")
        needed = f.op(f"select i1 {everyone}, i32 %live, i32 {asked}")
        needed = f.op(f"call i32 @llvm.smin.i32(i32 {needed}, i32 {threads})")
        with f.when(f.op(f"icmp sge i32 {arrived}, {needed}")):
            code = f.get_item("i32", kind, t)
            total = f.get_item("i32", sums, number)
            whole = f.op(f"zext i1 {f.op(f'icmp eq i32 {total}, {count}')} to i32")
            conj = f.op(f"icmp eq i32 {code}, {warp.BAR_AND}")
            f.set_item("i64", result, t, f.op(f"zext i32 {f.op(f'select i1 {conj}, i32 {whole}, i32 {total}')} to i64"))
            f.set_item("i8", state, t, str(READY))
            any_.set(f.op(f"or i32 {any_.get()}, {f.op(f'shl i32 1, {number}')}"))
    with f.count_up("0", "16") as number:
        bit = f.op(f"and i32 {any_.get()}, {f.op(f'shl i32 1, {number}')}")
        with f.when(f.op(f"icmp ne i32 {bit}, 0")):
            f.set_item("i32", pending, number, "0")
    with f.when(f.op(f"icmp ne i32 {any_.get()}, 0")):
        _next_epoch(f)
    f.ret(f"i32 {any_.get()}")
    return f.text()
