"""Round trips of CuPy calls: none where CuPy natively does not wait."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from processes import run_command

SCRIPT = Path(__file__).parent / "cases" / "cupy_waits.py"
#: A result that comes to the host: natively a copy to pageable memory waits, and then the stream is synchronised.
_RESULT = ["COPY_DTOH", "STREAM_SYNC"]
#: What waits, and why it does natively, too; what is not here must not wait at all.
WAITS: dict[str, list[str]] = {
    # the result, or its size, comes to the host
    **dict.fromkeys(
        ["setitem_mask", "nonzero", "boolean_mask", "unique", "flatnonzero", "random_randint", "pinv", "lstsq"], _RESULT
    ),
    **dict.fromkeys(["get", "item", "asnumpy", "tolist", "float", "bool", "allclose"], _RESULT),
    "bincount": 2 * _RESULT,
    "percentile": 2 * _RESULT,
    "choose": 2 * _RESULT,
    "lu_factor": 3 * _RESULT,
    "sparse_toarray": _RESULT,
    # synchronisation itself
    "synchronize": ["STREAM_SYNC"],
    "stream_synchronize": ["STREAM_SYNC"],
    "device_synchronize": ["CONTEXT_SYNC"],
    "event_synchronize": ["EVENT_SYNC"],
    # questions about the device's progress; natively they ask the driver
    "stream_done": ["STREAM_QUERY"],
}
#: What CuPy asks about when it copies host memory: whether its events are done, so that it may drop what it held.
ASKS = "EVENT_QUERY"
ASKING = {
    "percentile",
    "gaussian_filter",
    "shift_image",
    "zoom_image",
    "asarray_of_host",
    "pinned_memory",
    "set_from_host",
}


@pytest.mark.timeout(240)
def test_no_function_waits_where_cupy_natively_does_not(tmp_path: Path) -> None:
    done = run_command(
        [sys.executable, "-m", "migproxy", "run", "--device", "software", str(SCRIPT)], timeout=220, cwd=tmp_path
    )
    assert done.returncode == 0, done.said
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 200
    wrong = {}
    for name, operations in found.items():
        more = Counter(operations) - Counter(WAITS.get(name, []))
        if name in ASKING:
            del more[ASKS]
        if more:
            wrong[name] = dict(more)
    assert not wrong
    assert not set(WAITS) - set(found)
