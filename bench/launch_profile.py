"""Where does the time of one launch go, on both sides?

``python -m bench.launch_profile`` times four things in a native process and in a function, in turn, each as the
shortest of many bursts, so that what else the machine does counts least:

- ``call``: an empty Python function, for the speed of the core that it ran on;
- ``add``: ``cupy.add(x, y, out)`` of 1,000 floats, until it returns;
- ``launch``: ``cuLaunchKernel`` called by machine code, until it returns: natively the driver's work, in a function
  the parameters' way into the ring;
- ``done``: the same until the device has done all of the burst: natively the driver and the device, in a function the
  executor (it takes the command, checks it, calls the driver) and the device.

So ``add`` less ``launch`` is CuPy's own Python and Cython, and ``done`` in a function beside ``launch`` natively shows
what the executor adds to the driver's call, as far as the device is not what takes longest.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.rounds import HERE, Broker, command_for, environment, in_turn, modes_for, served, write_record
from migproxy.arena.machine_unsafe import U64, Indirect

BURST = {"full": 256, "smoke": 16}
BURSTS = {"full": 60, "smoke": 2}
PARTS = ("call", "add", "launch", "done")
DEADLINE = 120.0

cu_launch_kernel = Indirect("I32(U64, U32, U32, U32, U32, U32, U32, U32, U64, U64, U64)")


def launch_burst(call: U64, function: U64, parameters: U64, count: U64) -> U64:
    """Call ``cuLaunchKernel`` at `call` so often, one block of 32 threads each; returns the last status.

    Precondition: `function` is a kernel, `parameters` the address of its parameters' addresses.
    """
    status = 0
    for _ in range(count):
        status = cu_launch_kernel(call, function, 1, 1, 1, 32, 1, 1, 0, 0, parameters, 0)
    return status


def shortest(burst: Callable[[], object], settle: Callable[[], object], count: int, bursts: int) -> float:
    """Return the shortest time of a burst by its calls, in µs; `settle` is what comes between bursts."""
    best = float("inf")
    for _ in range(bursts):
        settle()
        start = time.perf_counter()
        burst()
        best = min(best, time.perf_counter() - start)
    return best / count * 1e6


def worker(mode: str, size: str) -> None:
    """Measure in this process and print the figures."""
    import cupy as cp
    from cuda.bindings import driver

    from migproxy.jit import language

    count, bursts = BURST[size], BURSTS[size]
    x, y, out = (cp.ones(1000, dtype=cp.float32) for _ in range(3))
    kernel = cp.RawKernel('extern "C" __global__ void touch(float* p) { p[threadIdx.x] += 1; }', "touch")
    kernel((1,), (32,), (out,))
    stream = cp.cuda.get_current_stream()
    _, address, _ = driver.cuGetProcAddress(b"cuLaunchKernel", 12000, 0)
    place = ctypes.c_uint64(out.data.ptr)
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(place))
    compiled = language.bind(launch_burst, language.compile_functions(launch_burst)["launch_burst"])
    launches = (int(address), int(kernel.kernel.ptr), ctypes.addressof(parameters), count)

    def empty(_x: Any, _y: Any, _out: Any) -> None:
        pass

    def calls() -> None:
        for _ in range(count):
            empty(x, y, out)

    def adds() -> None:
        for _ in range(count):
            cp.add(x, y, out)

    def launched() -> None:
        if compiled(*launches):
            raise SystemExit("cuLaunchKernel failed")

    def done() -> None:
        launched()
        stream.synchronize()

    found = {}
    for name, burst in (("call", calls), ("add", adds), ("launch", launched), ("done", done)):
        burst()
        found[name] = shortest(burst, stream.synchronize, count, bursts)
    print(json.dumps(found))


def measure(mode: str, size: str, broker: Broker) -> dict[str, float]:
    """Run a process that measures."""
    inner = ["-m", "bench.launch_profile", "--worker", mode, "--size", size]
    done = subprocess.run(
        command_for(mode, inner, broker),
        env=environment(),
        cwd=HERE.parent,
        timeout=DEADLINE,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the {mode} run failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.launch_profile", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=tuple(BURST), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--proxied-only", action="store_true")
    parser.add_argument("--worker", choices=("native", "proxied"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.size)
        return 0
    samples: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as broker:
        modes = modes_for(broker, arguments.proxied_only)
        for number in range(arguments.rounds):
            for mode in in_turn(modes, number):
                samples.setdefault(mode, []).append(measure(mode, arguments.size, broker))
        rows = []
        for part in PARTS:
            row: dict[str, Any] = {"name": part}
            for mode, found in samples.items():
                values = [each[part] for each in found]
                row[mode] = round(statistics.median(values), 4)
                row[f"{mode}_spread"] = [round(min(values), 4), round(max(values), 4)]
            rows.append(row)
            print(row, flush=True)
        write_record(arguments.out, "launch_profile", broker.gpu, arguments.size, rounds=arguments.rounds, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
