"""NVML in a function: how busy the device is with the session's own work. What others do on it is not told."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from typing import Final

from migproxy_plugins.cuda.memory_unsafe import put_bytes
from migproxy_plugins.cuda.nvml import NOT_SUPPORTED, NvmlError, check_device, serves

from migproxy.session import api
from migproxy.session.session import on_new_session

#: The shortest time that a share is of: NVML's own samples are of a sixth of a second to a second.
_LEAST_NS: Final = 166_000_000

_lock = threading.Lock()


@dataclass
class _Seen:
    """When it was asked last, in the session's time, and what was found."""

    lived_ns: int = 0
    busy_ns: int = 0
    percent: int = 0


_seen = _Seen()


def _forget(_: object) -> None:
    """A new session's time begins again; a forked child's lock may have been held."""
    global _seen, _lock
    _seen, _lock = _Seen(), threading.Lock()


on_new_session(_forget)


def own_share() -> int:
    """Return in percent how much of the time since the last question the session's work was on the device.

    The first answer is of the whole session. A slice without a compute lease does not measure it: not supported.
    """
    found = api.statistics()
    if "gpu_busy_ns" not in found:
        raise NvmlError(NOT_SUPPORTED)
    lived, busy = found["lived_ns"], found["gpu_busy_ns"]
    with _lock:
        passed = lived - _seen.lived_ns
        if passed >= _LEAST_NS or not _seen.lived_ns:
            _seen.percent = max(0, min(100, 100 * (busy - _seen.busy_ns) // max(1, passed)))
            _seen.lived_ns, _seen.busy_ns = lived, busy
        return _seen.percent


@serves("nvmlDevice_t, nvmlUtilization_t *")
def nvmlDeviceGetUtilizationRates(device: int, utilization: int) -> None:
    """Own time on the device; for memory, whose traffic nobody counts by session, the share of the quota in use."""
    check_device(device)
    free, total = api.mem_get_info()
    put_bytes(utilization, struct.pack("<II", own_share(), 100 * (total - free) // max(1, total)))
