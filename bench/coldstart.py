"""How long until a script's first result?

``python -m bench.coldstart`` starts a CuPy script that adds up ten numbers and prints the sum, as plain ``python``, and
by ``migproxy run`` against a running broker that keeps executors warm, in alternating order. The figure is the time
from starting the process to reading the printed line. The script says when it passed each stage, so that the page can
show what the time goes to; one more proxied run with Python's import profiler names the modules that take longest.
``import migproxy`` alone is timed as well.

On the software GPU (``--proxied-only``) the figures show only that all of it works.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.rounds import Broker, command_for, environment, in_turn, modes_for, served, write_record
from migproxy.abi.control import ListSessions, Sessions
from migproxy.cli.control import BrokerClient
from migproxy.testing.pairs import compare

SCRIPT = """\
import time
said = [("script begins", time.monotonic())]
import numpy
said.append(("numpy imported", time.monotonic()))
import cupy
said.append(("cupy imported", time.monotonic()))
x = cupy.arange(10)
said.append(("first array", time.monotonic()))
total = int(x.sum())
said.append(("first result", time.monotonic()))
print(total, flush=True)
import json; print(json.dumps(said))
"""
STAGES = ("script begins", "numpy imported", "cupy imported", "first array", "first result")
DEADLINE = 120.0
_PROFILED = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s*)(\S+)")


def once(command: Sequence[str], env: dict[str, str]) -> tuple[float, dict[str, float]]:
    """Run the script; returns seconds to its first result, and seconds that each stage took."""
    begin = time.monotonic()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.monotonic() - begin
        rest = process.stdout.read()
        process.wait(DEADLINE)
    if line.strip() != "45" or process.returncode:
        raise SystemExit(f"the script said {line!r} and ended with {process.returncode}")
    passed = dict(json.loads(rest))
    stages, last = {}, begin
    for name in STAGES:
        stages[name], last = passed[name] - last, passed[name]
    return seconds, stages


def wait_for_warm(seconds: float, broker: Broker) -> None:
    """Wait until the last run's session has ended, and then as long as a warm executor takes to be ready again."""
    client = BrokerClient(broker.socket)
    deadline = time.monotonic() + 30
    while client.ask(ListSessions(), Sessions).rows and time.monotonic() < deadline:
        time.sleep(0.05)
    client.close()
    time.sleep(seconds)


def slowest_imports(command: Sequence[str], env: dict[str, str], count: int = 14) -> list[dict[str, Any]]:
    """Return the modules whose own code takes longest to import, over all processes of the command, with ms."""
    env = dict(env, PYTHONPROFILEIMPORTTIME="1")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE)
    own: dict[str, float] = {}
    for line in done.stderr.splitlines():
        if found := _PROFILED.match(line):
            own[found[4]] = own.get(found[4], 0.0) + int(found[1]) / 1e3
    ordered = sorted(own, key=lambda name: -own[name])[:count]
    return [{"module": name, "ms": round(own[name], 1)} for name in ordered]


def import_ms(module: str, rounds: int, env: dict[str, str]) -> dict[str, Any]:
    """Return how long a module's import takes in a fresh interpreter, in milliseconds."""
    code = f"import time; begin = time.perf_counter(); import {module}; print((time.perf_counter() - begin) * 1e3)"
    found = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=DEADLINE)
        found.append(float(done.stdout))
    spread = [round(min(found), 2), round(max(found), 2)]
    return {"module": module, "ms": round(statistics.median(found), 2), "spread": spread}


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.coldstart", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-seconds", type=float, help="wait before each proxied run (default 4; smoke 0)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--proxied-only", action="store_true")
    arguments = parser.parse_args()
    pause = arguments.warm_seconds
    if pause is None:
        pause = 0.0 if arguments.size == "smoke" else 4.0
    rounds = 1 if arguments.size == "smoke" else arguments.rounds
    env = environment()
    seconds: dict[str, list[float]] = {}
    stages: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), ("--warm", "2")) as broker:
        script = Path(folder) / "script.py"
        script.write_text(SCRIPT)
        modes = modes_for(broker, arguments.proxied_only)
        commands = {mode: command_for(mode, [str(script)], broker) for mode in modes}
        time.sleep(pause)
        for number in range(-1, rounds):
            for mode in in_turn(modes, number):
                if mode == "proxied":
                    wait_for_warm(pause, broker)
                total, each = once(commands[mode], env)
                if number < 0:
                    continue  # the first of each fills caches: compiled kernels, files
                seconds.setdefault(mode, []).append(total)
                for name, took in each.items():
                    stages.setdefault(mode, {}).setdefault(name, []).append(took)
        wait_for_warm(pause, broker)
        imports = slowest_imports(commands["proxied"], env)
        ours = import_ms("migproxy", max(3, rounds), env)
        rows = [summary(mode, seconds[mode], stages[mode]) for mode in modes]
        found: dict[str, Any] = {"rows": rows, "imports": imports, "import_migproxy": ours}
        if len(modes) == 2:
            pair = compare("start", seconds["native"], seconds["proxied"])
            found["ratio"] = {"ratio": round(pair.ratio, 3), "interval": [round(pair.low, 3), round(pair.high, 3)]}
        write_record(arguments.out, "coldstart", broker.gpu, arguments.size, rounds=rounds, **found)
    for row in rows:
        print(f"{row['mode']:8} {row['ms']:8.1f} ms  {row['stages_ms']}")
    print(found.get("ratio", ""), f"import migproxy: {ours['ms']} ms; slowest:", imports[:5])
    return 0


def summary(mode: str, seconds: list[float], stages: dict[str, list[float]]) -> dict[str, Any]:
    """Return a mode's row, in milliseconds."""
    return {
        "mode": mode,
        "ms": round(statistics.median(seconds) * 1e3, 1),
        "spread_ms": [round(min(seconds) * 1e3, 1), round(max(seconds) * 1e3, 1)],
        "stages_ms": {name: round(statistics.median(took) * 1e3, 1) for name, took in stages.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
