"""Beyond the quota, each library raises its own out-of-memory error, and the script goes on."""

from __future__ import annotations

import pytest
from processes import RunScript

MEMORY = 256 << 20
DEVICES = [pytest.param("software", MEMORY, id="software"), pytest.param("0", 2 << 30, id="gpu", marks=pytest.mark.gpu)]

CUPY = """
import cupy
free, total = cupy.cuda.runtime.memGetInfo()
assert total == QUOTA, total
assert 0 < free <= total
kept = cupy.arange(1000)
try:
    cupy.zeros(QUOTA + 1, 'u1')
except cupy.cuda.memory.OutOfMemoryError as error:
    assert 'Out of memory allocating' in str(error), error
else:
    raise AssertionError('more than the quota')
assert int(kept.sum()) == 499500
blocks = []
try:
    while True:
        blocks.append(cupy.zeros(16 << 20, 'u1'))
except cupy.cuda.memory.OutOfMemoryError:
    pass
held = len(blocks) * (16 << 20)
assert QUOTA // 2 < held <= QUOTA or QUOTA > (1 << 30), held
assert int(kept.sum()) == 499500
del blocks
cupy.get_default_memory_pool().free_all_blocks()
assert cupy.cuda.runtime.memGetInfo()[0] > free - (64 << 20)
again = cupy.ones(16 << 20, 'u1')
assert int(again.sum()) == 16 << 20
print('fine')
"""

NUMBA = """
import numpy as np
from numba import cuda
free, total = cuda.current_context().get_memory_info()
assert total == QUOTA, total
kept = cuda.to_device(np.arange(1000))
try:
    cuda.device_array(QUOTA + 1, np.uint8)
except Exception as error:
    assert 'OUT_OF_MEMORY' in str(error), repr(error)
else:
    raise AssertionError('more than the quota')
assert kept.copy_to_host().sum() == 499500
array = cuda.device_array(QUOTA // 8, np.uint8)
print('fine')
"""

DRIVER = """
from cuda.bindings import driver
def ok(result):
    assert result[0] == driver.CUresult.CUDA_SUCCESS, result
    return result[1] if len(result) == 2 else result[1:]
ok(driver.cuInit(0))
ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(0))))
free, total = ok(driver.cuMemGetInfo())
assert total == QUOTA, total
error, _ = driver.cuMemAlloc(QUOTA + 1)
assert error == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, error
pointer = ok(driver.cuMemAlloc(QUOTA // 8))
ok(driver.cuMemsetD8(pointer, 1, QUOTA // 8))
ok(driver.cuCtxSynchronize())
ok(driver.cuMemFree(pointer))
print('fine')
"""

RUNTIME = """
from cuda.bindings import runtime
error, free, total = runtime.cudaMemGetInfo()
assert total == QUOTA, total
error, _ = runtime.cudaMalloc(QUOTA + 1)
assert error == runtime.cudaError_t.cudaErrorMemoryAllocation, error
assert runtime.cudaGetLastError()[0] == runtime.cudaError_t.cudaErrorMemoryAllocation
error, pointer = runtime.cudaMalloc(QUOTA // 8)
assert error == runtime.cudaError_t.cudaSuccess
assert runtime.cudaFree(pointer)[0] == runtime.cudaError_t.cudaSuccess
print('fine')
"""


@pytest.mark.parametrize(("device", "memory"), DEVICES)
@pytest.mark.parametrize("script", [CUPY, NUMBA, DRIVER, RUNTIME], ids=["cupy", "numba", "driver", "runtime"])
def test_quota(run_script: RunScript, script: str, device: str, memory: int) -> None:
    options = ["--device", device, "--memory", f"{memory >> 20}MiB"]
    done = run_script(f"QUOTA = {memory}\n{script}", options=options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


def test_the_quota_is_the_functions_not_the_processs(run_script: RunScript) -> None:
    """Children count against their function's quota."""
    done = run_script(
        "import cupy, subprocess, sys\n"
        f"kept = cupy.zeros({MEMORY // 2}, 'u1')\n"
        "child = 'import cupy, sys\\n'\n"
        f"child += 'try: cupy.zeros({MEMORY * 3 // 4}, \"u1\")\\n'\n"
        "child += 'except cupy.cuda.memory.OutOfMemoryError: sys.exit(3)\\n'\n"
        "out = subprocess.run([sys.executable, '-c', child], timeout=60)\n"
        "assert out.returncode == 3, out\n"
        "print('fine')\n",
        options=["--device", "software", "--memory", f"{MEMORY >> 20}MiB"],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said
