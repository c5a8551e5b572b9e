"""The conformance kit, and kernels of Triton's tutorials' kinds in a function."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HAS_GPU = os.path.exists("/dev/nvidiactl")
DEVICES = ("software", pytest.param("0", marks=pytest.mark.skipif(not HAS_GPU, reason="needs a real NVIDIA GPU")))


def run(*command: str, cache: Path) -> str:
    env = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "migproxy", *command], capture_output=True, text=True, timeout=400, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("device", DEVICES)
def test_conformance(device: str, tmp_path: Path) -> None:
    assert "triton: threads: ok" in run("plugin", "check", "triton", "--device", device, cache=tmp_path)


@pytest.mark.parametrize("device", DEVICES)
def test_kernels(device: str, tmp_path: Path) -> None:
    skipped = ["--skip=matmul"] if device == "software" else []
    said = run("run", "--device", device, str(HERE / "kernels.py"), *skipped, cache=tmp_path)
    assert said.splitlines()[-1] == f"{9 - len(skipped)} of {9 - len(skipped)} passed"


def test_tensor_cores_are_refused_by_name_on_the_software_gpu(tmp_path: Path) -> None:
    others = "add,softmax,norm,dropout,count,scan,transpose,tuned"
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = ["-m", "migproxy", "run", "--device", "software", str(HERE / "kernels.py"), f"--skip={others}"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=200, check=False, env=env)
    assert done.returncode == 1
    assert "matmul FAILED TritonError: Triton Error [CUDA]: a PTX JIT compilation failed" in done.stdout
