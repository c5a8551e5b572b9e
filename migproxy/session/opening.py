"""Opening this process's session: reserve the address windows, say Hello, and agree on where everything lies."""

from __future__ import annotations

import os

from migproxy import distributions
from migproxy.abi.control import Windows
from migproxy.abi.protocol import ARENA_WINDOW, WINDOW_ALIGN
from migproxy.arena import segment
from migproxy.errors import AdmissionError
from migproxy.jit import fast_path
from migproxy.session import connect

#: Address space (not memory) for device allocations: half is placed by the function, half by the executor.
DEVICE_WINDOW = 512 << 30
#: Distributions whose versions the broker checks against the supported ranges.
LIBRARIES = ("cupy-cuda12x", "cupy-cuda13x", "cuda-bindings", "cuda-core", "numba", "numba-cuda")


def installed_libraries() -> dict[str, str]:
    """Return the versions of the GPU libraries in this environment, by distribution name."""
    found = {name: distributions.version(name) for name in LIBRARIES}
    return {name: version for name, version in found.items() if version}


def reserve_windows() -> Windows:
    """Reserve an arena window and a device window in this process's address space."""
    total = ARENA_WINDOW + WINDOW_ALIGN + DEVICE_WINDOW
    base = segment.find_window(total)
    windows = Windows(base, ARENA_WINDOW, base + ARENA_WINDOW + WINDOW_ALIGN, DEVICE_WINDOW)
    segment.reserve_at(windows.arena_base, windows.arena_size)
    segment.reserve_at(windows.device_base, windows.device_size)
    return windows


def open_connection() -> connect.Connection:
    """Open a session with the broker that the environment names, or with one found or started.

    The windows this process proposed are reserved before; where the executor had to choose others, they are reserved
    instead.

    Raises
    ------
    AdmissionError
        The broker refused, or the executor's windows are not free here.
    """
    proposed = reserve_windows()
    path = connect.broker_for_process()
    try:
        hello = connect.make_hello(proposed, installed_libraries())
        connection = connect.connect(path, hello, meanwhile=fast_path.prepare)
    except BaseException:
        segment.release(proposed.arena_base, proposed.arena_size)
        segment.release(proposed.device_base, proposed.device_size)
        raise
    # Children of this process belong to the same function.
    os.environ.setdefault(connect.FUNCTION_VARIABLE, connection.welcome.function_id)
    used = connection.welcome.windows
    for name in ("arena", "device"):
        ours = getattr(proposed, f"{name}_base"), getattr(proposed, f"{name}_size")
        theirs = getattr(used, f"{name}_base"), getattr(used, f"{name}_size")
        if ours == theirs:
            continue
        segment.release(*ours)
        try:
            segment.reserve_at(*theirs)
        except OSError as error:
            raise AdmissionError(f"the executor's {name} window is in use in this process: {error}") from error
    return connection
