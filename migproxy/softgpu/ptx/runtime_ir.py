"""The runtime in LLVM IR: the block loop, fault recovery, and the scheduler of suspended threads.

``run``       a worker's part of a launch: takes blocks until none is left; recovers from faults
``handler``   the signal handler: a fault inside a kernel jumps back to ``run``; any other goes to the previous handler
``fault``     ends a launch from inside (trap, assert)
``block``     runs one block of a kernel with suspend points to its end
"""

from __future__ import annotations

from migproxy.softgpu.ptx import check_ir
from migproxy.softgpu.ptx.irkit import Fn
from migproxy.softgpu.ptx.layout import CONTEXT as C
from migproxy.softgpu.ptx.layout import LAUNCH as L
from migproxy.softgpu.ptx.runtime_sched import block, resolve

P = "migproxy_rt_"
#: status of a block that ended because another one faulted
ABORTED = 1
#: a thread's stack is used up
STACK = 714


def run() -> str:
    """``i32 run(ptr launch, ptr tc)``: 0, or the status of a fault that this worker met."""
    f = Fn("i32", f"{P}run", "ptr %launch", "ptr %tc")
    jump = f.place(C, "%tc", "jump")
    code = f.op(f"call i32 @__sigsetjmp(ptr {jump}, i32 0) returns_twice")
    with f.when(f.op(f"icmp ne i32 {code}, 0")):
        f.store(C, "%tc", "active", "0")
        status = f.load(C, "%tc", "fault")
        slot = f.place(L, "%launch", "fault")
        pair = f.op(f"cmpxchg ptr {slot}, i32 0, i32 {status} seq_cst seq_cst")
        with f.when(f.op(f"extractvalue {{ i32, i1 }} {pair}, 1")):
            f.store(L, "%launch", "fault_worker", "%tc")
        f.ret(f"i32 {status}")
    key = f.op(f"load i32, ptr @{P}key")
    f.op(f"call i32 @pthread_setspecific(i32 {key}, ptr %tc)")
    f.store(C, "%tc", "launch", "%launch")
    f.store(C, "%tc", "thread", "-1")
    for name in ("params", "globals", "threads", "dynamic", "static", "workspace"):
        f.store(C, "%tc", name, f.load(L, "%launch", name))
    f.store(C, "%tc", "local_bytes", f.load(L, "%launch", "local"))
    for ours, theirs in (("ncx", "gx"), ("ncy", "gy"), ("ncz", "gz"), ("ntx", "bx"), ("nty", "by"), ("ntz", "bz")):
        f.store(C, "%tc", ours, f.load(L, "%launch", theirs))
    kernel = f.load(L, "%launch", "kernel")
    blocks = f.load(L, "%launch", "blocks")
    chunk = f.load(L, "%launch", "chunk")
    counter = f.place(L, "%launch", "counter")
    gx = f.op(f"zext i32 {f.load(L, '%launch', 'gx')} to i64")
    gy = f.op(f"zext i32 {f.load(L, '%launch', 'gy')} to i64")
    n = f.var("i64")
    end = f.var("i64")
    f.store(C, "%tc", "active", "1")
    with f.loop(lambda: "true") as leave:
        with f.when(f.op(f"icmp uge i64 {n.get()}, {end.get()}")):
            n.set(f.op(f"atomicrmw add ptr {counter}, i64 {chunk} monotonic"))
            with f.when(f.op(f"icmp uge i64 {n.get()}, {blocks}")):
                f.jump(leave)
            last = f.op(f"add i64 {n.get()}, {chunk}")
            end.set(f.op(f"call i64 @llvm.umin.i64(i64 {last}, i64 {blocks})"))
            stop = f.op(f"load atomic i32, ptr {f.place(L, '%launch', 'fault')} monotonic, align 4")
            with f.when(f.op(f"icmp ne i32 {stop}, 0")):
                f.jump(leave)
        now = n.get()
        row = f.op(f"udiv i64 {now}, {gx}")
        plane = f.op(f"udiv i64 {row}, {gy}")
        for name, whole, below, size in (("cx", now, row, gx), ("cy", row, plane, gy)):
            part = f.op(f"sub i64 {whole}, {f.op(f'mul i64 {below}, {size}')}")
            f.store(C, "%tc", name, f.op(f"trunc i64 {part} to i32"))
        f.store(C, "%tc", "cz", f.op(f"trunc i64 {plane} to i32"))
        born = f.op(f"add i32 {f.load(C, '%tc', 'epoch')}, 1")
        f.store(C, "%tc", "epoch", born)
        f.store(C, "%tc", "born", born)
        f.emit(f"call void {kernel}(ptr %tc)")
        n.add("1")
    f.store(C, "%tc", "active", "0")
    f.ret("i32 0")
    return f.text()


def handler() -> str:
    """``void handler(i32 signal, ptr info, ptr ucontext)``."""
    f = Fn("void", f"{P}handler", "i32 %signal", "ptr %info", "ptr %ucontext")
    key = f.op(f"load i32, ptr @{P}key")
    tc = f.op(f"call ptr @pthread_getspecific(i32 {key})")
    with f.when(f.op(f"icmp ne ptr {tc}, null")):
        active = f.op(f"load volatile i32, ptr {f.place(C, tc, 'active')}")
        with f.when(f.op(f"icmp ne i32 {active}, 0")):
            f.store(C, tc, "active", "0")
            # siginfo_t: si_code at 8, si_addr at 16
            address = f.op(f"load i64, ptr {f.op('getelementptr i8, ptr %info, i64 16')}")
            code = f.op(f"load i32, ptr {f.op('getelementptr i8, ptr %info, i64 8')}")
            # SI_KERNEL (128) without an address: a misaligned vector access, or a non-canonical address
            odd = f.op(f"icmp eq i32 {code}, 128")
            bus = f.op("icmp eq i32 %signal, 7")
            aligned = f.op(f"select i1 {f.op(f'or i1 {odd}, {bus}')}, i32 716, i32 700")
            status = f.op(f"select i1 {f.op('icmp eq i32 %signal, 4')}, i32 715, i32 {aligned}")
            f.store(C, tc, "fault", status)
            f.store(C, tc, "fault_address", address)
            f.emit(f"call void @siglongjmp(ptr {f.place(C, tc, 'jump')}, i32 1)")
            f.emit("unreachable")
            f._start(f._label())
    f.emit(f"call void @{P}chain(i32 %signal, ptr %info, ptr %ucontext)")
    f.ret()
    return f.text()


def chain() -> str:
    """Pass a signal on to the handler that was there before (struct sigaction: handler at 0, flags at 136)."""
    f = Fn("void", f"{P}chain", "i32 %signal", "ptr %info", "ptr %ucontext")
    index = f.op("zext i32 %signal to i64")
    old = f.op(f"getelementptr [152 x i8], ptr @{P}old, i64 {index}")
    previous = f.op(f"load ptr, ptr {old}")
    plain = f.op(f"icmp ule ptr {previous}, inttoptr (i64 1 to ptr)")
    with f.when(plain):
        # default action: take it at the instruction that faulted, which runs again
        f.op(f"call i32 @sigaction(i32 %signal, ptr {old}, ptr null)")
        f.ret()
    flags = f.op(f"load i32, ptr {f.op(f'getelementptr i8, ptr {old}, i64 136')}")
    three = f.op(f"icmp ne i32 {f.op(f'and i32 {flags}, 4')}, 0")
    with f.when(three):
        f.emit(f"call void {previous}(i32 %signal, ptr %info, ptr %ucontext)")
        f.ret()
    f.emit(f"call void {previous}(i32 %signal)")
    f.ret()
    return f.text()


def fault() -> str:
    """``void fault(ptr tc, i32 status, i32 thread, i64 a, i64 b, i64 c, i64 d)``: does not return."""
    f = Fn("void", f"{P}fault", "ptr %tc", "i32 %status", "i32 %thread", "i64 %a", "i64 %b", "i64 %c", "i64 %d")
    f.store(C, "%tc", "active", "0")
    f.store(C, "%tc", "fault", "%status")
    f.store(C, "%tc", "thread", "%thread")
    for name, value in (("fault_address", "%d"), ("fault_a", "%a"), ("fault_b", "%b"), ("fault_c", "%c")):
        f.store(C, "%tc", name, value)
    f.emit(f"call void @siglongjmp(ptr {f.place(C, '%tc', 'jump')}, i32 1)")
    return f.text()


def overflow() -> str:
    """``void overflow(ptr tc)``: a thread has used up its stack."""
    f = Fn("void", f"{P}overflow", "ptr %tc")
    # The thread's index is in the context wherever there are calls.
    x, y, z = (f.load(C, "%tc", name) for name in ("tx", "ty", "tz"))
    row = f.op(f"add i32 {y}, {f.op(f'mul i32 {z}, ' + f.load(C, '%tc', 'nty'))}")
    thread = f.op(f"add i32 {x}, {f.op(f'mul i32 {row}, ' + f.load(C, '%tc', 'ntx'))}")
    f.emit(f"call void @{P}fault(ptr %tc, i32 {STACK}, i32 {thread}, i64 0, i64 0, i64 0, i64 0)")
    f.ret()
    return f.text()


def printf() -> str:
    """``i32 printf(ptr tc, i64 format, i64 args)``: the host's formatter, outside fault recovery."""
    f = Fn("i32", f"{P}printf", "ptr %tc", "i64 %format", "i64 %args")
    f.store(C, "%tc", "active", "0")
    callee = f.op(f"load ptr, ptr @{P}printer")
    result = f.op(f"call i32 {callee}(i64 %format, i64 %args)")
    f.store(C, "%tc", "active", "1")
    f.ret(f"i32 {result}")
    return f.text()


def clocks() -> str:
    """Nanoseconds of the real-time clock, and a short sleep."""
    f = Fn("i64", f"{P}nanoseconds")
    spec = f.op("alloca [2 x i64]")
    f.op(f"call i32 @clock_gettime(i32 0, ptr {spec})")
    seconds = f.op(f"load i64, ptr {spec}")
    nanos = f.op(f"load i64, ptr {f.op(f'getelementptr i8, ptr {spec}, i64 8')}")
    whole = f.op(f"mul i64 {seconds}, 1000000000")
    f.ret(f"i64 {f.op(f'add i64 {nanos}, {whole}')}")
    g = Fn("void", f"{P}sleep", "i32 %nanos")
    spec = g.op("alloca [2 x i64]")
    g.emit(f"store i64 0, ptr {spec}")
    short = g.op("call i32 @llvm.umin.i32(i32 %nanos, i32 1000000)")
    g.emit(f"store i64 {g.op(f'zext i32 {short} to i64')}, ptr {g.op(f'getelementptr i8, ptr {spec}, i64 8')}")
    g.op(f"call i32 @nanosleep(ptr {spec}, ptr null)")
    g.ret()
    return f.text() + g.text()


def grid() -> str:
    """``void grid(ptr tc)``: wait until every block of the launch is here; ``void spin(ptr tc)``: one poll's pause.

    Both end the block when another one has faulted: it would wait for ever.
    """
    f = Fn("void", f"{P}grid", "ptr %tc")
    launch = f.load(C, "%tc", "launch")
    generation = f.place(L, launch, "generation")
    before = f.op(f"load atomic i32, ptr {generation} acquire, align 4")
    arrived = f.op(f"atomicrmw add ptr {f.place(L, launch, 'arrived')}, i32 1 acq_rel")
    blocks = f.op(f"trunc i64 {f.load(L, launch, 'blocks')} to i32")
    with f.when(f.op(f"icmp eq i32 {f.op(f'add i32 {arrived}, 1')}, {blocks}")):
        f.store(L, launch, "arrived", "0")
        f.op(f"atomicrmw add ptr {generation}, i32 1 acq_rel")
        f.ret()

    def waiting() -> str:
        now = f.op(f"load atomic i32, ptr {generation} acquire, align 4")
        return f.op(f"icmp eq i32 {now}, {before}")

    with f.loop(waiting):
        f.emit(f"call void @{P}spin(ptr %tc)")
    f.ret()
    g = Fn("void", f"{P}spin", "ptr %tc")
    failed = g.op(f"load atomic i32, ptr {g.place(L, g.load(C, '%tc', 'launch'), 'fault')} monotonic, align 4")
    with g.when(g.op(f"icmp ne i32 {failed}, 0")):
        g.emit(f"call void @{P}fault(ptr %tc, i32 {ABORTED}, i32 -1, i64 0, i64 0, i64 0, i64 0)")
    g.op("call i32 @sched_yield()")
    g.ret()
    return f.text() + g.text()


def module() -> str:
    """The text of the runtime module."""

    parts = [
        f"@{P}key = global i32 0",
        f"@{P}printer = global ptr null",
        f"@{P}old = global [65 x [152 x i8]] zeroinitializer",
        run(), handler(), chain(), fault(), overflow(), printf(), clocks(), grid(), check_ir.access(), resolve(),
        block(),
        "declare i32 @__sigsetjmp(ptr, i32) returns_twice",
        "declare void @siglongjmp(ptr, i32) noreturn",
        "declare i32 @pthread_setspecific(i32, ptr)",
        "declare ptr @pthread_getspecific(i32)",
        "declare i32 @sigaction(i32, ptr, ptr)",
        "declare i32 @clock_gettime(i32, ptr)",
        "declare i32 @nanosleep(ptr, ptr)",
        "declare i32 @sched_yield()",
        "declare i64 @llvm.umin.i64(i64, i64)",
        "declare i32 @llvm.umin.i32(i32, i32)",
        "declare i32 @llvm.umax.i32(i32, i32)",
        "declare i32 @llvm.smin.i32(i32, i32)",
        "declare i32 @llvm.smax.i32(i32, i32)",
        "declare i32 @llvm.cttz.i32(i32, i1)",
        "declare i32 @llvm.ctpop.i32(i32)",
    ]  # fmt: skip
    return "\n".join(parts)
