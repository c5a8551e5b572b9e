"""One function, or plain process, that measures when it is told to: ``python -m bench.colocation.worker KIND SIZE``.

It prepares, says ``ready``, and for each line that comes it carries out its requests and prints what came of it as
JSON. With ``whole`` behind, it is ready once CuPy is imported, the preparations count, and it ends after one
measurement.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.colocation.requests import KINDS, SIZES, Request


def main(kind: str, size_name: str, whole: str = "") -> None:
    """Measure until the input ends."""
    import cupy

    size = SIZES[size_name]

    def prepare() -> Request:
        request = KINDS[kind](cupy, size)
        for _ in range(3):
            request()
        return request

    if whole:
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.perf_counter()
        measured(kind, prepare(), size)
        print(json.dumps({"seconds": time.perf_counter() - start, "latencies": []}), flush=True)
        return
    request = prepare()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(measured(kind, request, size)), flush=True)


def measured(kind: str, request: Callable[[], None], size: dict[str, Any]) -> dict[str, Any]:
    """Carry out the requests; returns all of their time, and each one's, in seconds."""
    latencies = []
    start = time.perf_counter()
    if kind == "heavy":
        while time.perf_counter() - start < size["seconds"]:
            request()
            latencies.append(0.0)
    else:
        for _ in range(size["small_requests"] if kind == "small" else size["requests"]):
            if kind == "small":
                time.sleep(0.005)
            begin = time.perf_counter()
            request()
            latencies.append(time.perf_counter() - begin)
    return {"seconds": time.perf_counter() - start, "latencies": latencies}


if __name__ == "__main__":
    main(*sys.argv[1:])
