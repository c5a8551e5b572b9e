"""Grid-wide barriers of cooperative launches."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.errors import KernelFault
from migproxy.softgpu.ptx import Kernel

from . import kit

SOURCE = r"""
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
extern "C" __global__ void rotate(int* a, int* o, int turns) {
  auto g = cg::this_grid(); int i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int k = 0; k < turns; k++) { o[i] = a[(i + 1) % g.size()] + 1; g.sync(); a[i] = o[i]; g.sync(); }
}
"""
RUNTIME = """
.extern .func (.param .b32 r) cudaCGSynchronize (.param .b64 h, .param .b32 f);
.extern .func (.param .b64 r) cudaCGGetIntrinsicHandle (.param .b32 s);
.visible .entry k(.param .u64 p, .param .u64 q) {
 .reg .b64 %a<8>; .reg .b32 %r<8>;
 ld.param.u64 %a0, [p]; ld.param.u64 %a4, [q];
 mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %r0;
 mad.wide.u32 %a1, %r3, 4, %a0; add.u32 %r4, %r3, 10; st.global.u32 [%a1], %r4;
 { .param .b32 s; st.param.b32 [s], 1; .param .b64 z;
   call.uni (z), cudaCGGetIntrinsicHandle, (s); ld.param.b64 %a2, [z]; }
 { .param .b64 h; st.param.b64 [h], %a2; .param .b32 f; st.param.b32 [f], 0; .param .b32 z;
   call.uni (z), cudaCGSynchronize, (h, f); ld.param.b32 %r5, [z]; }
 xor.b32 %r6, %r3, 127; mad.wide.u32 %a3, %r6, 4, %a0; ld.global.u32 %r7, [%a3]; add.u32 %r7, %r7, %r5;
 mad.wide.u32 %a5, %r3, 4, %a4; st.global.u32 [%a5], %r7; ret; }
"""


def together(kernel: Kernel, grid: int, block: int, *args: object) -> None:
    packed = kit.pack(kernel, args)
    kernel.launch_cooperative((grid, 1, 1), (block, 1, 1), 0, packed.ctypes.data)


def test_grid_barrier_of_cuda() -> None:
    kernel = kit.load(kit.cuda(SOURCE)).kernels["rotate"]
    a, out = np.arange(256, dtype=np.int32), np.zeros(256, np.int32)
    together(kernel, 8, 32, a, out, np.int32(3))
    assert (a == np.roll(np.arange(256), -3) + 3).all()
    together(kernel, 1, 32, a, out, np.int32(1))
    with pytest.raises(KernelFault) as info:  # without a cooperative launch the library traps
        kit.launch(kernel, 8, 32, a, out, np.int32(1))
    assert info.value.status == 719


def test_grid_barrier_of_the_device_runtime() -> None:
    kernel = kit.load(kit.HEAD + RUNTIME).kernels["k"]
    a, out = np.zeros(128, np.uint32), np.zeros(128, np.uint32)
    together(kernel, 4, 32, a, out)
    assert (out == 137 - np.arange(128)).all()


def test_a_fault_ends_the_blocks_that_wait() -> None:
    kernel = kit.load(kit.cuda(SOURCE)).kernels["rotate"]
    memory = np.zeros(4096, np.int32)
    with pytest.raises(KernelFault) as info:
        together(kernel, 4, 32, np.uint64(8), memory, np.int32(1))
    assert info.value.status == 700
