"""Record what CUDA's libraries answer, in the call, to invalid arguments: run it natively, where a GPU is.

Each rule of the CuPy plugin's `checks` is broken once, with everything else valid. What a library answers decides
whether the rule stands: a function must not be told of an error that its library does not find. A call that breaks the
context ends its process, and the next rule is tried in a fresh one::

    python tests/gpu_data/record_library_checks.py tests/unit/cupy_plugin/data/gpu_checks.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "cupy_plugin"))
from invalid_calls import LIBRARIES, checked_functions, valid, violations

SHORT = ("cublas", "cusolver", "cusparse")
AT_ONCE = 12
#: The context is gone, or may be.
BROKEN = "broken"


def answer(short: str, name: str, first: int) -> None:
    """Break a function's rules from the `first` on; print one JSON line for each: its text and the library's status."""
    import cupy
    import numpy as np

    module = import_module(LIBRARIES[short])
    handle, memory, host = module.create(), cupy.zeros(1 << 12, np.float64), np.zeros(64)
    signature = next(each for each in checked_functions(short) if each.name == name)
    arguments = valid(signature, memory.data.ptr, handle)
    arguments.update({name: host.ctypes.data for name in ("alpha", "beta", "result") if name in arguments})
    for place, (broken, _, rule) in enumerate(violations(short, signature, arguments)):
        if place < first:
            continue
        if "handle" in broken and broken["handle"] == 0:
            print(json.dumps([rule, None]), flush=True)
            continue
        try:
            getattr(module, name)(*broken.values())
            status: object = 0
        except RuntimeError as error:
            status = getattr(error, "status", str(error))
        except (OverflowError, TypeError) as error:
            status = type(error).__name__
        try:
            cupy.cuda.Device().synchronize()
        except cupy.cuda.runtime.CUDARuntimeError:
            print(json.dumps([rule, BROKEN]), flush=True)
            return
        print(json.dumps([rule, status]), flush=True)


def ask(pair: tuple[str, str]) -> dict[str, object]:
    """Return the answers to all rules of one function."""
    found: dict[str, object] = {}
    place = 0
    while True:
        command = [sys.executable, __file__, "--one", *pair, str(place)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        found.update(lines)
        place += len(lines)
        if done.returncode or (lines and lines[-1][1] == BROKEN):
            if not lines:
                found["died"] = done.stderr[-200:]
                return found
            continue
        return found


def main(target: str) -> None:
    """Record all answers."""
    import cupy

    pairs = [(short, signature.name) for short in SHORT for signature in checked_functions(short)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(ask, pairs))
    record: dict[str, object] = {"cupy": cupy.__version__, "cuda": cupy.cuda.runtime.runtimeGetVersion()}
    for short in SHORT:
        record[short] = {name: found for (one, name), found in zip(pairs, answers, strict=True) if one == short}
    Path(target).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(len(pairs), "functions,", sum(len(each) for each in answers), "rules")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        answer(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(sys.argv[1])
