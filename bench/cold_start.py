"""How long until a CuPy script has its first result? The whole process, from start to end, in turn native and
proxied."""

from __future__ import annotations

import subprocess
import sys
import time

SCRIPT = "import cupy; print(float((cupy.arange(10) + 1).sum()))"


def once(prefix: list[str]) -> float:
    """Return the seconds one process takes from start to end.

    Raises
    ------
    subprocess.CalledProcessError
        It failed.
    """
    start = time.perf_counter()
    subprocess.run([*prefix, "-c", SCRIPT], check=True, stdout=subprocess.DEVNULL, timeout=120)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(once([sys.executable]))
