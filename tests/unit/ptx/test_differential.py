"""Every case of `cases` on the software GPU, against what an H100 yielded; against the real one where there is one.

``data/h100_cases.npz`` is made by ``tests/gpu_data/record_ptx.py``: inputs and results of every case.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from . import kit
from .cases import CASES, ITEMS, Case, inputs, kernel_text, width

RECORD = Path(__file__).parent / "data/h100_cases.npz"
NAMES = [case.text.split(" ")[0] for case in CASES]


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


def rows(case: Case, columns: list[np.ndarray], ours: np.ndarray, theirs: np.ndarray) -> list[list[str]]:
    """Inputs, our result and the GPU's, where they differ; the first few."""
    places = np.flatnonzero(differences(case, ours, theirs))[:4]
    return [[hex(column[n]) for column in columns] + [hex(ours[n]), hex(theirs[n])] for n in places]


@pytest.fixture(scope="module")
def recorded() -> Iterator[Mapping[str, np.ndarray]]:
    with np.load(RECORD) as record:
        yield record


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_like_the_recorded_gpu(case: Case, recorded: Mapping[str, np.ndarray]) -> None:
    columns = [recorded[f"{case.text}#{n}"] for n in range(len(case.sources))]
    assert not rows(case, columns, software(case, columns), recorded[case.text])


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(len(CASES)), ids=NAMES)
def test_like_the_real_gpu(number: int) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "gpu_data"))
    import record_ptx

    case = CASES[number]
    columns = inputs(case, number)
    assert not rows(case, columns, software(case, columns), record_ptx.Device().run(case, columns))
