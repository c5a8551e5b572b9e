"""Functions that share a slice: how long one waits for another that queues work without end."""

from __future__ import annotations

from pathlib import Path

from test_containment import RealBroker, line

SPIN = """
import sys, time
import cupy
spin = cupy.RawKernel('''
extern "C" __global__ void spin(float* p, long long n) {
    float x = p[0];
    for (long long i = 0; i < n; i++) x = x * 0.5f + 1.0f;
    p[0] = x;
}''', "spin")
place = cupy.zeros(1, dtype=cupy.float32)
def launch(n):
    spin((1,), (1,), (place, cupy.int64(n)))
def took(n):
    began = time.perf_counter(); launch(n); cupy.cuda.Device().synchronize(); return time.perf_counter() - began
"""
HEAVY = (
    SPIN
    + """
n = 1 << 16
while min(took(n) for _ in range(3)) < 4e-3:
    n *= 2
print("ready", flush=True)
sys.stdin.readline()
for _ in range(400):
    launch(n)
print("queued", flush=True)
cupy.cuda.Device().synchronize()
print(time.monotonic(), flush=True)
"""
)
SMALL = (
    SPIN
    + """
took(10)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    took(10)
print(time.monotonic(), flush=True)
"""
)


def test_a_small_request_does_not_wait_for_all_that_a_neighbour_has_queued(tmp_path: Path) -> None:
    broker = RealBroker(str(tmp_path / "b.sock"))
    try:
        scripts = {"heavy": HEAVY, "small": SMALL}
        for name, code in scripts.items():
            (tmp_path / f"{name}.py").write_text(code)
        heavy, small = (broker.run(str(tmp_path / f"{name}.py")) for name in scripts)
        for function in (heavy, small):
            assert line(function) == "ready"
        go(heavy)
        assert line(heavy) == "queued"
        go(small)
        ended = float(line(small))
        # Two seconds of kernels were queued; ten small requests take some ten of them between.
        assert float(line(heavy)) - ended > 0.5
    finally:
        broker.close()


def go(function: object) -> None:
    stdin = function.stdin  # type: ignore[attr-defined]
    stdin.write("go\n")
    stdin.flush()
