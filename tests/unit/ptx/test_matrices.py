"""``ldmatrix``: what each lane gets of 8×8 matrices whose rows lie anywhere in shared memory."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.errors import PtxError
from migproxy.softgpu.ptx import matrices

from . import kit

#: Copies 1,024 elements to shared memory, lets each lane name the row `order[lane]`, and stores what it got.
KERNEL = """.visible .entry k(.param .u64 source, .param .u64 order, .param .u64 out) {{
.reg .b32 %r<16>; .reg .b64 %rd<8>; .reg .b32 %v<4>;
.shared .align 16 .b8 rows[2048];
ld.param.b64 %rd0, [source]; ld.param.b64 %rd1, [order]; ld.param.b64 %rd2, [out];
mov.u32 %r0, %tid.x; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd1, %rd3; ld.global.b32 %r1, [%rd4];
mov.u32 %r2, 0; mov.u32 %r9, rows;
copy:
shl.b32 %r3, %r2, 7; shl.b32 %r4, %r0, 2; add.u32 %r3, %r3, %r4;
cvt.u64.u32 %rd5, %r3; add.s64 %rd5, %rd0, %rd5; ld.global.b32 %r5, [%rd5];
add.u32 %r6, %r9, %r3; st.shared.b32 [%r6], %r5;
add.u32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, 16; @%p0 bra copy;
bar.sync 0;
shl.b32 %r7, %r1, 4; add.u32 %r7, %r9, %r7; {address}
ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{targets}}}, [{base}];
mul.wide.u32 %rd3, %r0, 16; add.s64 %rd2, %rd2, %rd3;
{stores}
ret; }}
"""


def text(count: int, trans: bool, *, wide: bool = False, offset: int = 0) -> str:
    base = ("%rd7" if wide else "%r7") + (f" + {offset}" if offset else "")
    return kit.HEAD + KERNEL.replace(".reg .b64", ".reg .pred %p<1>; .reg .b64").format(
        address="cvt.u64.u32 %rd7, %r7;" if wide else "",
        count=count,
        trans=".trans" if trans else "",
        targets=", ".join(f"%v{n}" for n in range(count)),
        base=base,
        stores=" ".join(f"st.global.b32 [%rd2+{4 * n}], %v{n};" for n in range(count)),
    )


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_lane_gets_its_pair(count: int, trans: bool) -> None:
    rng = np.random.default_rng(count)
    memory = rng.integers(0, 1 << 16, (128, 8)).astype(np.uint16)  # 128 rows of 16 bytes
    order = rng.permutation(120)[:32].astype(np.int32)
    for wide, offset in ((False, 0), (True, 0), (False, 32)):
        out = np.zeros((32, 4), np.uint32)
        kernel = kit.load(text(count, trans, wide=wide, offset=offset)).kernels["k"]
        kit.launch(kernel, 1, 32, memory, order, out)
        found = out.view(np.uint16).reshape(32, 4, 2)
        for number in range(count):
            matrix = memory[order[8 * number : 8 * number + 8] + offset // 16]
            matrix = matrix.T if trans else matrix
            assert (found[:, number] == matrix.reshape(32, 2)).all()


def test_what_is_not_rewritten_is_refused_by_name() -> None:
    guarded = text(4, False).replace("ldmatrix.sync", "@%p0 ldmatrix.sync")
    assert matrices.expand(guarded) == guarded
    with pytest.raises(PtxError, match="ldmatrix"):
        kit.load(guarded)


def test_lines_stay_where_they_are() -> None:
    source = text(4, True)
    assert matrices.expand(source).count("\n") == source.count("\n")
    assert "ldmatrix" not in matrices.expand(source)


def test_braces_round_one_item() -> None:
    source = (
        kit.HEAD
        + """.visible .entry k(.param .u64 out) {
.reg .b32 %r<2>; .reg .b64 %rd<1>;
ld.param.b64 %rd0, [out]; ld.global.b32 { %r0 }, [%rd0+0]; add.u32 %r1, %r0, 1; st.global.b32 [%rd0+4], { %r1 }; ret; }
"""
    )
    out = np.array([41, 0], np.uint32)
    kit.launch(kit.load(source).kernels["k"], 1, 1, out)
    assert out.tolist() == [41, 42]
