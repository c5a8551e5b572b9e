"""An executor whose installation has no cuTENSOR: CuPy goes on as it does natively where it is not installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from processes import Finished, RunScript

#: Numbers that CuPy natively gives to cuTENSOR when it is an accelerator: in ufuncs, reductions and `einsum`.
WORK = """
import sys
import cupy
x = cupy.arange(6.0).reshape(2, 3)
def work():
    assert (float((x + x).sum()), float((x * x - x).max()), float(x.mean())) == (30, 20, 2.5)
    assert cupy.einsum("ij,kj", x, x).tolist() == [[5, 14], [14, 50]]
"""
NAMES = """
try:
    import cupyx.cutensor
except ImportError as error:
    print("ImportError", "cuTENSOR" in str(error))
import warnings
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    import cupy.cuda.cutensor
print(cupy.cuda.cutensor.available, len(warned))
cupy.show_config()
"""


@pytest.fixture
def without(run_script: RunScript, tmp_path: Path) -> RunScript:
    """Run a script with executors whose software cuTENSOR cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['migproxy.softgpu.libraries.cutensor'] = None\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(script: str, *, accelerators: str) -> Finished:
        env = {"PYTHONPATH": path, "CUPY_ACCELERATORS": accelerators}
        return run_script(script, options=("--device", "software"), env=env)

    return run


def said(done: Finished, lines: int) -> list[str]:
    """Return the first lines that a script printed; `show_config` tells of no cuTENSOR below."""
    assert (done.returncode, done.stderr) == (0, ""), done.said
    assert re.search("^cuTENSOR Version +: None$", done.stdout, re.MULTILINE), done.said
    return done.stdout.splitlines()[:lines]


def test_the_accelerator_is_ignored(without: RunScript) -> None:
    done = without(
        WORK + "work()\nprint(cupy._core.get_routine_accelerators(), 'cupyx.cutensor' in sys.modules)\n" + NAMES,
        accelerators="cub,cutensor",
    )
    assert said(done, 3) == ["[1, 2] False", "ImportError True", "False 1"]


def test_so_it_is_when_it_is_set_later(without: RunScript) -> None:
    kinds = "for kind in ('elementwise', 'reduction', 'routine'):\n"
    done = without(
        WORK + f"{kinds}    getattr(cupy._core, f'set_{{kind}}_accelerators')(['cub', 'cutensor'])\nwork()\n"
        f"{kinds}    print(getattr(cupy._core, f'get_{{kind}}_accelerators')())\n" + NAMES,
        accelerators="cub",
    )
    assert said(done, 5) == [*["[1, 2]"] * 3, "ImportError True", "False 1"]


def test_importing_cupy_asks_nobody_unless_cutensor_is_named(run_script: RunScript) -> None:
    script = "import cupy\nfrom migproxy.session import session\nprint(session.opened() is not None)\n"
    done = run_script(script, env={"CUPY_ACCELERATORS": "cub"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", ""), done.said
