"""What a warm executor does with CuPy before it has a session: first calls load for as long as a start may take.

Nothing of it is left but what the driver has loaded: the memory is given back, and an executor serves one session only.
"""

from __future__ import annotations

from types import ModuleType

#: The dtypes that sums most often have; a kernel is loaded for each.
DTYPES = ("float32", "float64", "int64")


def reduce_once(cub: ModuleType) -> None:
    """Add up two numbers of each of the dtypes: CUDA's runtime, CUB's kernels and its workspace are there then.

    Parameters
    ----------
    cub : ModuleType
        `cupy.cuda.cub`. A context is current.
    """
    import cupy

    for dtype in DTYPES:
        source, target = cupy.empty(2, dtype), cupy.empty((), dtype)
        source.data.memset_async(0, source.nbytes)
        cub.device_reduce(source, cub.CUPY_CUB_SUM, (0,), (), target, False)
    cupy.cuda.get_current_stream().synchronize()
    del source, target
    cupy.get_default_memory_pool().free_all_blocks()
