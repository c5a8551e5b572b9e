"""Asynchronous barriers and copies, polling threads, clusters of one block, CUDA C++'s barriers and pipelines."""

from __future__ import annotations

import numpy as np
import pytest

from . import kit

HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"


def ptx(body: str, shared: str = "") -> str:
    """A kernel of one pointer in %rd0; %r0 is the thread's number, %rd1 the address of its word."""
    return f"""{HEAD}
.visible .entry k(.param .u64 p)
{{
.reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .pred %p<8>;
.shared .align 16 .b8 data[4096]; .shared .align 8 .b64 bar; {shared}
ld.param.u64 %rd0, [p];
mov.u32 %r0, %tid.x;
mad.wide.u32 %rd1, %r0, 4, %rd0;
{body}
ret;
}}
"""


def run(body: str, out: np.ndarray, threads: int, shared: str = "") -> np.ndarray:
    kit.launch(kit.load(ptx(body, shared)).kernels["k"], 1, threads, out)
    return out


def test_phases_complete_when_all_have_arrived() -> None:
    """Each thread arrives three times; what the slowest wrote before a phase's end is seen after it."""
    body = """
    setp.ne.u32 %p0, %r0, 0; @%p0 bra INIT;
    mbarrier.init.shared.b64 [bar], 96;
    INIT: barrier.sync 0;
    mov.u32 %r1, 0; mov.u32 %r5, 0;
    PHASE:
    shl.b32 %r2, %r0, 2; mov.u32 %r3, data; add.u32 %r3, %r3, %r2;
    add.u32 %r4, %r0, %r1; st.shared.u32 [%r3], %r4;
    mbarrier.arrive.shared.b64 %rd2, [bar];
    WAIT: mbarrier.try_wait.shared.b64 %p1, [bar], %rd2; @!%p1 bra WAIT;
    xor.b32 %r2, %r2, 252; mov.u32 %r3, data; add.u32 %r3, %r3, %r2;
    setp.ge.u32 %p2, %r0, 64; @%p2 bra SKIP;
    ld.shared.u32 %r4, [%r3]; add.u32 %r5, %r5, %r4;
    SKIP:
    mbarrier.arrive.shared.b64 %rd2, [bar];
    WAIT2: mbarrier.test_wait.shared.b64 %p1, [bar], %rd2; @!%p1 bra WAIT2;
    add.u32 %r1, %r1, 1; setp.lt.u32 %p3, %r1, 3; @%p3 bra PHASE;
    st.global.u32 [%rd1], %r5;
    """
    out = run(body, np.zeros(96, np.uint32), 96)
    n = np.arange(96)
    assert np.array_equal(out, np.where(n < 64, 3 * (n ^ 63) + 3, 0))


def test_counts_states_and_parities() -> None:
    body = """
    mbarrier.init.shared::cta.b64 [bar], 3;
    mbarrier.test_wait.parity.shared.b64 %p0, [bar], 0; selp.u32 %r1, 1, 0, %p0; st.global.u32 [%rd0], %r1;
    mbarrier.test_wait.parity.shared.b64 %p0, [bar], 1; selp.u32 %r1, 1, 0, %p0; st.global.u32 [%rd0+4], %r1;
    mbarrier.arrive.shared.b64 %rd2, [bar], 2;
    mbarrier.pending_count.b64 %r2, %rd2; st.global.u32 [%rd0+8], %r2;
    mbarrier.arrive_drop.shared.b64 %rd3, [bar];
    mbarrier.pending_count.b64 %r2, %rd3; st.global.u32 [%rd0+12], %r2;
    mbarrier.test_wait.shared.b64 %p0, [bar], %rd3; selp.u32 %r1, 1, 0, %p0; st.global.u32 [%rd0+16], %r1;
    mbarrier.arrive.noComplete.shared.b64 %rd2, [bar], 1;
    mbarrier.pending_count.b64 %r2, %rd2; st.global.u32 [%rd0+20], %r2;
    mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [bar], 48;
    mbarrier.test_wait.parity.shared.b64 %p0, [bar], 1; selp.u32 %r1, 1, 0, %p0; st.global.u32 [%rd0+24], %r1;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 48;
    mbarrier.test_wait.parity.shared.b64 %p0, [bar], 1; selp.u32 %r1, 1, 0, %p0; st.global.u32 [%rd0+28], %r1;
    mbarrier.inval.shared.b64 [bar];
    """
    #  first phase open, the one before it complete; 3 pending, then 1; complete; 2 expected now; bytes hold it open
    assert list(run(body, np.zeros(8, np.uint32), 1)) == [0, 1, 3, 1, 1, 2, 0, 1]


def test_bulk_copies_complete_on_their_barrier() -> None:
    body = """
    setp.ne.u32 %p0, %r0, 0; @%p0 bra WAIT;
    mbarrier.init.shared.b64 [bar], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 %rd2, [bar], 256;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [data], [%rd0], 128, [bar];
    add.u64 %rd3, %rd0, 128; mov.u32 %r3, data; add.u32 %r3, %r3, 128;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd3], 128, [bar];
    WAIT: barrier.cluster.arrive; barrier.cluster.wait;
    AGAIN: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra AGAIN;
    sub.u32 %r4, 63, %r0; shl.b32 %r4, %r4, 2; mov.u32 %r3, data; mapa.shared::cluster.u32 %r5, %r3, 0;
    add.u32 %r5, %r5, %r4; ld.shared::cluster.u32 %r6, [%r5];
    shl.b32 %r7, %r0, 2; add.u32 %r7, %r7, 1024; add.u32 %r7, %r7, %r3; st.shared.u32 [%r7], %r6;
    barrier.sync 0; @%p0 bra DONE;
    add.u32 %r7, %r3, 1024; fence.proxy.async.shared::cta;
    cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r7], 256;
    cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;
    DONE:
    """
    out = run(body, np.arange(64, dtype=np.uint32), 64)
    assert np.array_equal(out, np.arange(64)[::-1])


@pytest.mark.parametrize("how", ["", ".noinc"])
def test_copies_arrive_on_barriers(how: str) -> None:
    """With .noinc the arrival counts; without, the thread still has to arrive itself."""
    arrive = "" if how else "mbarrier.arrive.shared.b64 %rd2, [bar];"
    body = f"""
    setp.ne.u32 %p0, %r0, 0; @%p0 bra GO;
    mbarrier.init.shared.b64 [bar], 32;
    GO: barrier.sync 0;
    shl.b32 %r2, %r0, 2; mov.u32 %r3, data; add.u32 %r3, %r3, %r2;
    cp.async.ca.shared.global [%r3], [%rd1], 4;
    cp.async.mbarrier.arrive{how}.shared.b64 [bar];
    {arrive}
    AGAIN: mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra AGAIN;
    xor.b32 %r2, %r2, 124; mov.u32 %r3, data; add.u32 %r3, %r3, %r2;
    ld.shared.u32 %r4, [%r3]; st.global.u32 [%rd1], %r4;
    """
    assert np.array_equal(run(body, np.arange(32, dtype=np.uint32), 32), np.arange(32)[::-1])


def test_threads_wait_for_each_other_by_polling() -> None:
    """The first thread spins on what the last writes; then all take a lock, holding it across a barrier's wait."""
    spin = """
    setp.ne.u32 %p0, %r0, 0; @%p0 bra OTHER;
    SPIN: ld.volatile.shared.u32 %r1, [flag]; setp.eq.u32 %p1, %r1, 0; @%p1 bra SPIN;
    st.global.u32 [%rd0], %r1; bra DONE;
    OTHER: setp.ne.u32 %p0, %r0, 63; @%p0 bra DONE;
    mov.u32 %r2, 7; st.volatile.shared.u32 [flag], %r2;
    DONE:
    """
    clear = "mov.u32 %r9, 0; st.shared.u32 [flag], %r9; barrier.sync 0;"
    assert run(clear + spin, np.zeros(64, np.uint32), 64, ".shared .u32 flag;")[0] == 7
    other = spin.replace("@%p1 bra SPIN;", "@!%p1 bra OUT; bra SPIN; OUT:")
    assert run(clear + other, np.zeros(64, np.uint32), 64, ".shared .u32 flag;")[0] == 7
    lock = """
    TRY: atom.shared.cas.b32 %r1, [flag], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra TRY;
    ld.global.u32 %r2, [%rd0]; activemask.b32 %r3; add.u32 %r2, %r2, 1; st.global.u32 [%rd0], %r2;
    atom.shared.exch.b32 %r1, [flag], 0;
    """
    assert run(clear + lock, np.zeros(64, np.uint32), 64, ".shared .u32 flag;")[0] == 64


SOURCE = r"""
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
namespace cg = cooperative_groups;
extern "C" __global__ void reversed(const int* in, int* out) {
  __shared__ cuda::barrier<cuda::thread_scope_block> bar;
  __shared__ alignas(16) int tile[256];
  auto block = cg::this_thread_block();
  if (block.thread_rank() == 0) init(&bar, block.size());
  block.sync();
  cuda::memcpy_async(block, tile, in, cuda::aligned_size_t<16>(sizeof(int) * block.size()), bar);
  bar.arrive_and_wait();
  int v = tile[block.size() - 1 - block.thread_rank()];
  auto token = bar.arrive();
  bar.wait(cuda::std::move(token));
  tile[block.thread_rank()] = v;
  if (threadIdx.x & 1) { bar.arrive_and_drop(); return; }
  bar.arrive_and_wait();
  out[threadIdx.x] = tile[threadIdx.x] + tile[threadIdx.x + 1];
  bar.arrive_and_wait();
}
extern "C" __global__ void staged(const int* in, int* out, int n) {
  constexpr int stages = 2;
  extern __shared__ int buffer[];
  auto block = cg::this_thread_block();
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, stages> state;
  auto pipe = cuda::make_pipeline(block, &state);
  int total = 0, filled = 0, size = block.size();
  for (int step = 0; step < n; step++) {
    for (; filled < n && filled < step + stages; filled++) {
      pipe.producer_acquire();
      cuda::memcpy_async(block, buffer + filled % stages * size, in + filled * size, sizeof(int) * size, pipe);
      pipe.producer_commit();
    }
    pipe.consumer_wait();
    total += buffer[step % stages * size + (block.thread_rank() + step) % size];
    pipe.consumer_release();
  }
  out[block.thread_rank()] = total;
}
extern "C" __global__ void grouped(const int* in, int* out) {
  extern __shared__ int buffer[];
  auto block = cg::this_thread_block();
  cg::memcpy_async(block, buffer, in, sizeof(int) * block.size());
  cg::wait(block);
  out[block.thread_rank()] = buffer[block.size() - 1 - block.thread_rank()];
}
"""


@pytest.mark.parametrize("arch", ["compute_80", "compute_90"])
def test_barriers_and_pipelines_of_cuda_cpp(arch: str) -> None:
    module = kit.load(kit.cuda(SOURCE, arch))
    values = np.random.default_rng(0).integers(0, 1000, 256).astype(np.int32)
    out = np.zeros(256, np.int32)
    kit.launch(module.kernels["reversed"], 1, 256, values, out)
    back = values[::-1]
    assert np.array_equal(out[::2], back[::2] + back[1::2])
    steps = np.random.default_rng(1).integers(0, 1000, (7, 64)).astype(np.int32)
    out = np.zeros(64, np.int32)
    kit.launch(module.kernels["staged"], 1, 64, steps, out, np.int32(7), shared=2 * 64 * 4)
    assert np.array_equal(out, sum(np.roll(row, -n) for n, row in enumerate(steps)))
    out = np.zeros(100, np.int32)
    kit.launch(module.kernels["grouped"], 1, 100, values, out, shared=400)
    assert np.array_equal(out, values[:100][::-1])
