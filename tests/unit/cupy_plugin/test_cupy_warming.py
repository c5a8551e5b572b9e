"""What a warm executor does with CuPy's libraries leaves nothing behind."""

from __future__ import annotations

import pytest
from migproxy_plugins.cupy import warming


@pytest.mark.gpu
def test_the_first_reduction_gives_its_memory_back() -> None:
    import cupy
    from cupy.cuda import cub

    pool = cupy.get_default_memory_pool()
    before = pool.total_bytes()
    warming.reduce_once(cub)
    assert pool.total_bytes() <= before
