"""cuFFT's callbacks on the software GPU against NumPy: all element types, strided and padded layouts."""

from __future__ import annotations

import numpy as np
import pytest

from migproxy.softgpu import container
from migproxy.softgpu.libraries import cufft
from migproxy.softgpu.libraries.status import CuFFTError

LOADS, STORES = {"F": 0, "D": 1, "f": 2, "d": 3}, {"F": 4, "D": 5, "f": 6, "d": 7}
NAMES = {"F": "float2", "D": "double2", "f": "float", "d": "double"}
SOURCE = """
__constant__ double half[2] = {0.5, 0.25};
__device__ TYPE give(void* data, unsigned long long at, void* info, void*) {
  TYPE v = ((TYPE*)data)[at]; SCALE(v, *(int*)info) return v;
}
__device__ void take(void* data, unsigned long long at, TYPE v, void* info, void*) {
  SCALE(v, half[*(int*)info]) ((TYPE*)data)[at] = v;
}
"""


def image(kind: str) -> bytes:
    from cuda.bindings import nvrtc

    scale = "v.x *= by; v.y *= by;" if kind in "FD" else "v *= by;"
    source = f"#define TYPE {NAMES[kind]}\n#define SCALE(v, by) {scale.replace('by', '(by)')}\n{SOURCE}"
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"callback.cu", 0, [], [])
    options = [b"--gpu-architecture=compute_80", b"--relocatable-device-code=true"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    assert status == 0
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = b" " * size
    nvrtc.nvrtcGetPTX(program, text)
    return container.wrap(text)


def plan_with(put, source: str = "", target: str = "") -> int:
    plan = cufft.create()
    if source:
        assert cufft.setJITCallback(plan, "give", image(source), LOADS[source], put(3, np.int32)) == 0
    if target:
        assert cufft.setJITCallback(plan, "take", image(target), STORES[target], put(1, np.int32)) == 0
    return plan


@pytest.mark.parametrize(("kind", "type_"), [("F", 41), ("D", 105)])
def test_complex(put, rng, kind, type_):
    a = (rng.standard_normal((3, 20)) + 1j * rng.standard_normal((3, 20))).astype(kind)
    out = np.zeros_like(a)
    plan = cufft.Plan1d(20, type_, 3, prealloc_plan=plan_with(put, kind, kind))
    plan.fft(a, out, -1)
    np.testing.assert_allclose(out, np.fft.fft(3 * a) / 4, rtol=1e-4, atol=1e-4)
    plan.fft(out, out, 1)
    np.testing.assert_allclose(out, 20 * a * 9 / 16, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_place", [False, True])
def test_real(put, rng, in_place):
    a = rng.standard_normal((5, 4, 6))
    rows = np.zeros((5, 4, 8))
    rows[..., :6] = a
    source, out = (rows, rows.view(complex)) if in_place else (a, np.zeros((5, 4, 4), complex))
    forward = cufft.PlanNd((4, 6), None, 1, 0, None, 1, 0, 106, 5, "C", 1, None, prealloc_plan=plan_with(put, "d", "D"))
    cufft.execD2Z(forward.handle, put(source), put(out))
    np.testing.assert_allclose(out, np.fft.rfft2(3 * a) / 4, atol=1e-12)
    back = cufft.PlanNd((4, 6), None, 1, 0, None, 1, 0, 108, 5, "C", 1, None, prealloc_plan=plan_with(put, "D", "d"))
    result = rows if in_place else np.zeros((5, 4, 6))
    cufft.execZ2D(back.handle, put(out), put(result))
    np.testing.assert_allclose(result[..., :6], 24 * a * 9 / 16, atol=1e-12)


def test_offsets_follow_the_layout(put, rng):
    a = rng.standard_normal((2, 8, 3)).astype("f")  # along axis 1: each item 3 from the next
    for column in range(3):
        out = np.zeros((2, 5, 3), "F")
        plan = cufft.PlanNd((8,), (8,), 3, 24, (5,), 3, 15, 42, 2, "C", 0, None, prealloc_plan=plan_with(put, "f", "F"))
        cufft.execR2C(plan.handle, put(a) + 4 * column, put(out) + 8 * column)
        np.testing.assert_allclose(out[..., column], np.fft.rfft(3 * a[..., column], axis=1) / 4, atol=1e-4)
        assert not out[..., [n for n in range(3) if n != column]].any()


def test_what_is_no_callback(put):
    plan = cufft.create()
    with pytest.raises(CuFFTError, match="LTO-IR"):
        cufft.setJITCallback(plan, "give", b"\x7fLTO", 0, 0)
    with pytest.raises(CuFFTError, match="no such function"):
        cufft.setJITCallback(plan, "giv", image("F"), 0, 0)
    with pytest.raises(CuFFTError, match="callback type 8"):
        cufft.setJITCallback(plan, "give", image("F"), 8, 0)
    cufft.setJITCallback(plan, "give", image("d"), LOADS["d"], 0)
    with pytest.raises(CuFFTError, match="other elements") as caught:
        cufft.Plan1d(8, 41, 1, prealloc_plan=plan)
    assert caught.value.status == cufft.INVALID_TYPE
