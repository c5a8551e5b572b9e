"""How long until a script's first result?

``python -m bench.coldstart`` starts a CuPy script that adds up ten numbers and prints the sum, as plain ``python``, and
by ``migproxy run`` against a running broker that keeps executors warm, in alternating order. The figure is the time
from starting the process to reading the printed line. The script says when it passed each stage, so that the page can
show what the time goes to; one more proxied run with Python's import profiler names the modules that take longest.
``import migproxy`` alone is timed as well.

Each stage's processor time is told too (that of the whole process, with what ran in it before the script): on a
machine that does other things as well it says more than the clock.

On the software GPU (``--proxied-only``) the figures show only that all of it works. With ``--native-imports`` a native
script that only imports CuPy, for which no GPU is needed, runs beside it.
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

from bench.rounds import MODES, Broker, command_for, environment, in_turn, modes_for, served, write_record
from migproxy.abi.control import ListSessions, Sessions
from migproxy.cli.control import BrokerClient
from migproxy.testing.pairs import compare

IMPORTS = """\
import time
def say(name): said.append((name, time.monotonic(), time.process_time()))
said = []; say("script begins")
import numpy
say("numpy imported")
import cupy
say("cupy imported")
total = 45
"""
WORK = """\
x = cupy.arange(10)
say("first array")
total = int(x.sum())
say("first result")
"""
ANSWER = """\
print(total, flush=True)
import json; print(json.dumps(said))
"""
DEADLINE = 120.0
_PROFILED = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s*)(\S+)")


def once(command: Sequence[str], env: dict[str, str]) -> tuple[float, dict[str, float], dict[str, float]]:
    """Run the script; returns seconds to its first result, and seconds and processor seconds that each stage took."""
    begin = time.monotonic()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.monotonic() - begin
        rest = process.stdout.read()
        process.wait(DEADLINE)
    if line.strip() != "45" or process.returncode:
        raise SystemExit(f"the script said {line!r} and ended with {process.returncode}")
    stages, processor, last, last_processor = {}, {}, begin, 0.0
    for name, at, used in json.loads(rest):
        stages[name], last = at - last, at
        processor[name], last_processor = used - last_processor, used
    return seconds, stages, processor


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
    parser.add_argument("--native-imports", action="store_true", help="natively only import CuPy: there is no GPU")
    arguments = parser.parse_args()
    pause = arguments.warm_seconds
    if pause is None:
        pause = 0.0 if arguments.size == "smoke" else 4.0
    rounds = 1 if arguments.size == "smoke" else arguments.rounds
    # Installed packages have their byte code; the first run of each mode makes what is missing.
    env = {name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds: dict[str, list[float]] = {}
    stages: dict[str, dict[str, list[float]]] = {}
    processor: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), ("--warm", "2")) as broker:
        only_imports = arguments.native_imports
        modes = MODES if only_imports else modes_for(broker, arguments.proxied_only)
        commands = {}
        for mode in modes:
            script = Path(folder) / f"{mode}.py"
            script.write_text(IMPORTS + ("" if mode == "native" and only_imports else WORK) + ANSWER)
            commands[mode] = command_for(mode, [str(script)], broker)
        time.sleep(pause)
        for number in range(-1, rounds):
            for mode in in_turn(modes, number):
                if mode == "proxied":
                    wait_for_warm(pause, broker)
                total, each, used = once(commands[mode], env)
                if number < 0:
                    continue  # the first of each fills caches: compiled kernels, files
                seconds.setdefault(mode, []).append(total)
                for record, found_now in ((stages, each), (processor, used)):
                    for name, took in found_now.items():
                        record.setdefault(mode, {}).setdefault(name, []).append(took)
        wait_for_warm(pause, broker)
        imports = slowest_imports(commands["proxied"], env)
        ours = import_ms("migproxy", max(3, rounds), env)
        rows = [summary(mode, seconds[mode], stages[mode], processor[mode]) for mode in modes]
        found: dict[str, Any] = {"rows": rows, "imports": imports, "import_migproxy": ours}
        if len(modes) == 2 and not only_imports:
            pair = compare("start", seconds["native"], seconds["proxied"])
            found["ratio"] = {"ratio": round(pair.ratio, 3), "interval": [round(pair.low, 3), round(pair.high, 3)]}
        write_record(arguments.out, "coldstart", broker.gpu, arguments.size, rounds=rounds, **found)
    for row in rows:
        print(f"{row['mode']:8} {row['ms']:8.1f} ms  {row['stages_ms']}")
        print(f"{'':8} {sum(row['processor_ms'].values()):8.1f} ms  {row['processor_ms']} of a processor")
    print(found.get("ratio", ""), f"import migproxy: {ours['ms']} ms; slowest:", imports[:5])
    return 0


def summary(
    mode: str, seconds: list[float], stages: dict[str, list[float]], processor: dict[str, list[float]]
) -> dict[str, Any]:
    """Return a mode's row, in milliseconds."""
    return {
        "mode": mode,
        "ms": round(statistics.median(seconds) * 1e3, 1),
        "spread_ms": [round(min(seconds) * 1e3, 1), round(max(seconds) * 1e3, 1)],
        "stages_ms": {name: round(statistics.median(took) * 1e3, 1) for name, took in stages.items()},
        "processor_ms": {name: round(statistics.median(took) * 1e3, 1) for name, took in processor.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
