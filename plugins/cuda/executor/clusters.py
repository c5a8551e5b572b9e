"""The executor's half of questions about launches with clusters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from migproxy.errors import CudaError, ProtocolError
from migproxy.executor.handlers.launch import LaunchConfig

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.state import SessionState

_INVALID_HANDLE = 400
CLUSTER_FUNCTIONS: Final = frozenset({"cuOccupancyMaxActiveClusters", "cuOccupancyMaxPotentialClusterSize"})


def _words(values: Any, count: int) -> list[int]:
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(value, int) and 0 <= value < 1 << 32 for value in values)
    ):
        raise ProtocolError(f"{count} integers were expected")
    return values


def serve_clusters(
    driver: AnyDriver, session: SessionState, name: str, packed: Sequence[Any]
) -> tuple[int, tuple[Any, ...]]:
    """Carry out one of `CLUSTER_FUNCTIONS`; see `executor.serve`."""
    if len(packed) != 5 or not isinstance(packed[1], int):
        raise ProtocolError("function, stream, sizes, cluster and whether it is cooperative were expected")
    target = session.functions.get(packed[0])
    if target is None:
        raise CudaError(_INVALID_HANDLE, "no function of this session")
    sizes, cluster = _words(packed[2], 7), _words(packed[3], 4)
    config = LaunchConfig(sizes, session.stream(packed[1]), cluster, cooperative=bool(packed[4]))
    found = ctypes.c_int()
    status = driver.status(name, ctypes.addressof(found), target.function, config.address)
    return (status, ()) if status else (0, (found.value,))
