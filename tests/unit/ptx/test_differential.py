"""Every case of `cases` on the software GPU; against the real one where there is one (``-m gpu``)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from . import kit
from .cases import CASES, ITEMS, Case, inputs, kernel_text, width


def software(case: Case, columns: list[np.ndarray]) -> np.ndarray:
    out = np.zeros(ITEMS, f"u{width(case.dest) // 8}")
    kernel = kit.load(kernel_text(case.text, case.dest, case.sources)).kernels["k"]
    kit.launch(kernel, 1, ITEMS, *columns, out)
    return out


def as_floats(case: Case, bits: np.ndarray) -> np.ndarray | None:
    """Results as floating numbers, if that is what they are."""
    if case.dest in ("f32", "f64"):
        return bits.view(case.dest.replace("f32", "f4").replace("f64", "f8"))
    types = case.text.split(" ")[0].split(".")
    if "bf16" in types and case.dest == "b16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if "f16" in types and case.dest == "b16" and types[0] != "setp":
        return bits.view(np.float16)
    return None


def differences(case: Case, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Where results differ by more than the case allows."""
    x, y = as_floats(case, ours), as_floats(case, theirs)
    if x is None or y is None:
        return ours != theirs
    with np.errstate(all="ignore"):
        near = (ours == theirs) | (np.isnan(x) & np.isnan(y))
        if case.ulp:
            near |= np.abs(x.astype(np.float64) - y) <= case.ulp * np.spacing(np.abs(y)).astype(np.float64)
        if case.absolute:
            near |= np.abs(x.astype(np.float64) - y) <= case.absolute
    return ~near


@pytest.mark.parametrize("number", range(0, len(CASES), 11))
def test_cases_run(number: int) -> None:
    """A sample of the cases: they compile, and give the same results twice."""
    case = CASES[number]
    columns = inputs(case, number)
    assert (software(case, columns) == software(case, columns)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.text.split(" ")[0] for case in CASES])
def test_like_the_real_gpu(number: int) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "gpu_data"))
    import record_ptx

    case = CASES[number]
    columns = inputs(case, number)
    theirs = record_ptx.Device().run(case, columns)
    ours = software(case, columns)
    bad = differences(case, ours, theirs)
    rows = [[hex(column[n]) for column in columns] + [hex(ours[n]), hex(theirs[n])] for n in np.flatnonzero(bad)[:4]]
    assert not rows
