"""The examples give NumPy's results, quietly: on the software GPU, on a real one, and natively."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import run_command

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
WAYS = (
    pytest.param(["-m", "migproxy", "run", "--device", "software"], id="software"),
    pytest.param(["-m", "migproxy", "run", "--device", "0"], id="gpu", marks=pytest.mark.gpu),
    pytest.param([], id="native", marks=pytest.mark.gpu),
)
#: What each prints, the same everywhere.
FIRST_LINES = {
    "black_scholes": "200000 options",
    "image_filters": "camera: 512 x 512, strongest edge 1.3061, 26214 edge pixels, same as NumPy",
    "kmeans_digits": "1797 digits, 10 clusters, 34 iterations",
    "n_body": "1024 bodies, 10 steps",
    "saxpy": "100000 numbers, one kernel for each type",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path, way: list[str]) -> None:
    done = run_command([sys.executable, *way, str(example)])
    assert done.returncode == 0, done.said
    assert done.stdout.splitlines()[0] == FIRST_LINES[example.stem]
    assert "same as NumPy" in done.stdout, done.said
    assert "DIFFERS" not in done.stdout, done.said
    assert not done.stderr, done.said
