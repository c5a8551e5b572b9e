"""Function and broker from two installations: other releases of CuPy and CUDA on either side.

Needs a second interpreter with migproxy and a CuPy in MIGPROXY_OTHER_PYTHON, e.g. one with the extra ``cu13``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import run_command

OTHER = os.environ.get("MIGPROXY_OTHER_PYTHON", "")
SCRIPT = """
import cupy as cp, numpy as np
import cupyx.scipy.sparse as sparse
a = np.random.default_rng(1).normal(size=(12, 12)) + 12 * np.eye(12)
d = cp.asarray(a)
np.testing.assert_allclose(cp.linalg.solve(d, d[0]).get(), np.linalg.solve(a, a[0]))
np.testing.assert_allclose(cp.linalg.svd(d, compute_uv=False).get(), np.linalg.svd(a, compute_uv=False))
np.testing.assert_allclose(cp.fft.fft(d).get(), np.fft.fft(a))
np.testing.assert_allclose((sparse.csr_matrix(d) @ d[0]).get(), a @ a[0])
np.testing.assert_allclose(cp.sort(d, axis=None).get(), np.sort(a, axis=None))
assert 0.2 < float(cp.random.default_rng(1).random(1000).mean()) < 0.8
assert 0.2 < float(cp.random.rand(1000).mean()) < 0.8
assert float(d.sum()) == float(cp.sum(d))
print(cp.__version__, cp.cuda.runtime.runtimeGetVersion())
"""


@pytest.mark.skipif(not OTHER, reason="no second installation in MIGPROXY_OTHER_PYTHON")
@pytest.mark.timeout(200)
@pytest.mark.parametrize("turned", [False, True], ids=["function here", "function there"])
def test_either_side_may_be_another_installation(tmp_path: Path, turned: bool) -> None:
    function, executor = (OTHER, sys.executable) if turned else (sys.executable, OTHER)
    script, socket = tmp_path / "script.py", tmp_path / "broker.sock"
    script.write_text(SCRIPT)
    broker = subprocess.Popen(
        [executor, "-m", "migproxy", "broker", "--device", "software", "--socket", str(socket)], cwd=tmp_path
    )
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert broker.poll() is None
            assert time.monotonic() < deadline
            os.sched_yield()
        done = run_command(
            [function, "-m", "migproxy", "run", "--broker", str(socket), str(script)], timeout=150, cwd=tmp_path
        )
    finally:
        broker.terminate()
        broker.wait(20)
    assert done.returncode == 0, done.said
