"""Memory pools: what is counted, which default, what cannot be."""

from __future__ import annotations

import pytest
from conftest import FakeSession
from migproxy_plugins.cuda import pools

from migproxy.errors import CudaError


def status(function: object, *arguments: object, **named: object) -> int:
    with pytest.raises(CudaError) as caught:
        function(*arguments, **named)  # type: ignore[operator]
    return caught.value.status


def test_usage_follows_the_allocations(session: FakeSession) -> None:
    pool = pools.create()
    first, second = pools.allocate(100, pool, 0), pools.allocate(50, pool, 0)
    assert pools.get_attribute(pool, pools.USED_CURRENT) == 150
    assert pools.pool_of(first) == pool
    pools.free(first, 0)
    assert pools.get_attribute(pool, pools.USED_CURRENT) == 50
    assert pools.get_attribute(pool, pools.USED_HIGH) == 150
    pools.set_attribute(pool, pools.USED_HIGH, 0)
    assert pools.get_attribute(pool, pools.USED_HIGH) == 50
    pools.destroy(pool)
    pools.free(second, 0)
    assert second not in session.blocks
    assert status(pools.allocate, 10, pool, 0) == 1


def test_limits_and_locations(session: FakeSession) -> None:
    pool = pools.create(max_size=128)
    pools.allocate(100, pool, 0)
    assert status(pools.allocate, 100, pool, 0) == 2
    assert status(pools.create, location_id=3) == 101
    assert status(pools.create, allocation_type=7) == 1
    host = pools.create(location_type=pools.LOCATION_HOST)
    pointer = pools.allocate(64, host, 0)
    assert pointer in session.host
    pools.free(pointer, 0)
    assert pointer not in session.host
    assert session.calls[-1][0] == "stream_synchronize"


def test_a_pool_that_could_be_exported_is_refused_by_name(
    session: FakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    assert status(pools.create, handle_types=1) == 801
    assert "refused: cuMemPoolCreate: a pool leaves its session by a descriptor" in caplog.text


def test_default_and_current(session: FakeSession) -> None:
    default = pools.default_pool(0)
    assert pools.default_pool(0) == default
    assert pools.current_pool(0) == default
    assert status(pools.destroy, default) == 800
    mine = pools.create()
    pools.set_current_pool(0, mine)
    assert pools.pool_of(pools.allocate_current(8, 0)) == mine
    pools.destroy(mine)
    assert pools.current_pool(0) == default
    assert status(pools.set_attribute, default, pools.RESERVED_CURRENT, 1) == 1
    assert pools.get_access(default, pools.LOCATION_DEVICE, 0) == 3
    assert status(pools.set_access, default, pools.LOCATION_DEVICE, 0, 0) == 101


def test_managed_pools(session: FakeSession) -> None:
    pool = pools.create(pools.ALLOCATION_MANAGED, pools.LOCATION_NONE)
    pointer = pools.allocate(64, pool, 0)
    assert pointer in session.managed
    assert status(pools.set_current_pool, 0, pool) == 1
    pools.free(pointer, 0)
    assert pointer not in session.host
    assert status(pools.create, pools.ALLOCATION_PINNED, pools.LOCATION_NONE) == 1


def test_a_forked_child_starts_with_empty_pools(session: FakeSession) -> None:
    pool = pools.create()
    pointer = pools.allocate(100, pool, 0)
    pools._after_fork()
    assert pools.get_attribute(pool, pools.USED_CURRENT) == 0
    assert pools.pool_of(pointer) == 0
