"""Record a trace of several functions that share a slice, as ``migproxy trace`` does; ``tools/draw_trace.py`` draws it.

Usage: ``python tools/record_trace.py OUT.json [--functions N] [--device D] [--mode M] [--seconds S] [--size smoke]``.
The functions are those of ``bench/colocation``: a CPU phase, a copy to the device, two matrix products.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from migproxy.cli.control import BrokerClient
from migproxy.cli.trace import chrome_trace, record

ROOT = Path(__file__).resolve().parent.parent
FUNCTION = """
import sys
import cupy
from bench.colocation.requests import SIZES, inference
request = inference(cupy, SIZES[sys.argv[1]])
for _ in range(3):
    request()
print("ready", flush=True)
while True:
    request()
"""


def main() -> int:
    """Record and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--functions", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mode", default="overlap_cpu_memcpy")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path, script = os.path.join(scratch, "b.sock"), Path(scratch) / "request.py"
        script.write_text(FUNCTION)
        command = [sys.executable, "-m", "migproxy", "broker", "--socket", path, "--device", arguments.device]
        command += ["--mode", arguments.mode, "--default-memory", "4GiB" if arguments.size == "full" else "256MiB"]
        broker = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert broker.stderr is not None
        if "serves on" not in broker.stderr.readline():
            raise SystemExit("the broker does not start")
        command = [sys.executable, "-m", "migproxy", "run", "--broker", path, str(script), arguments.size]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        functions = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(arguments.functions)
        ]
        try:
            for one in functions:
                assert one.stdout is not None
                if one.stdout.readline().strip() != "ready":
                    raise SystemExit("a function does not start")
            time.sleep(0.5)
            client = BrokerClient(path)
            begin, end, found = record(client, arguments.seconds)
            client.close()
        finally:
            for one in functions:
                one.kill()
                one.communicate()
            broker.terminate()
            broker.communicate(timeout=30)
    arguments.out.write_text(json.dumps(chrome_trace(found, begin, end)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
