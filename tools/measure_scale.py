"""Measure what idle sessions cost and what ended ones leave behind, with real executors.

Usage: ``python tools/measure_scale.py [--idle N] [--sessions N] [--device D] [--seconds S] --out FILE``. The record is
a part of docs/reliability.md (``tools/make_reliability.py``).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from containment_kills import Herd, end, rows
from measure_containment import Rig, device_name

#: Sessions that one function may have are 64.
HERD = 50
#: Sessions that open and end at a time.
AT_ONCE = 3


def cpu_seconds(pid: int) -> float:
    """Return how long a process's threads have been on a CPU."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def memory(pid: int) -> dict[str, int]:
    """Return a process's proportional and private memory in KiB."""
    words = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    found = {line[0].rstrip(":"): int(line[1]) for line in words}
    return {"proportional": found["Pss"], "private": found["Private_Clean"] + found["Private_Dirty"]}


def idle_sessions(rig: Rig, count: int, seconds: float) -> dict[str, Any]:
    """Open `count` sessions and measure what they cost while they do nothing."""
    herds = [Herd(rig.path, "herd") for _ in range(-(-count // HERD))]
    began = time.monotonic()
    try:
        for number in range(count):
            herd = herds[number % len(herds)]
            herd.wait_ready(herd.child())
        opened = time.monotonic() - began
        served = [row for row in rows(rig.path) if row.state == "running"]
        pids = {"broker": [rig.broker.pid], "executors": [row.executor_pid for row in served]}
        pids["functions"] = [row.pid for row in served]
        time.sleep(2.0)
        before = {pid: cpu_seconds(pid) for each in pids.values() for pid in each}
        began = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - began
        used = {name: sum(cpu_seconds(pid) - before[pid] for pid in each) / took for name, each in pids.items()}
        kept = [memory(pid) for pid in pids["executors"]]
    finally:
        for herd in herds:
            end(herd.process)
    return {
        "sessions": len(served),
        "opened_s": round(opened, 1),
        "cpu_percent_of_a_core": {name: round(100 * share, 3) for name, share in used.items()},
        "executor_private_mib": round(sum(each["private"] for each in kept) / len(kept) / 1024, 1),
        "executor_proportional_mib": round(sum(each["proportional"] for each in kept) / len(kept) / 1024, 1),
    }


def ended_sessions(rig: Rig, count: int, until: float) -> dict[str, Any]:
    """Open and end sessions, a few at a time, and compare what the broker holds before and after."""

    def settled() -> tuple[dict[str, int], int]:
        deadline = time.monotonic() + 10
        while rows(rig.path) and time.monotonic() < deadline:
            time.sleep(0.05)
        status = Path(f"/proc/{rig.broker.pid}/status").read_text().split()
        return rig.footprint(), int(status[status.index("VmRSS:") + 1])

    herds = [Herd(rig.path, "herd") for _ in range(AT_ONCE)]
    ended, first = 0, min(100, count // 2)
    before, resident = settled()
    try:
        while ended < count and time.monotonic() < until:
            if first <= ended < first + AT_ONCE:  # its log and its reports have their room by then
                before, resident = settled()
            pids = [herd.child() for herd in herds]
            for herd, pid in zip(herds, pids, strict=True):
                herd.wait_ready(pid)
            for pid in pids:
                os.kill(pid, 15)
            ended += len(pids)
    finally:
        for herd in herds:
            end(herd.process)
    after, resident_after = settled()
    return {"sessions": ended, "before": before, "after": after, "broker_kib": [resident, resident_after]}


def main() -> int:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--idle", type=int, default=100, help="sessions that are idle; 0: leave that out")
    parser.add_argument("--sessions", type=int, default=1000, help="sessions that end; 0: leave that out")
    parser.add_argument("--seconds", type=float, default=3600, help="open no further session after so long")
    parser.add_argument("--device", default="software")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device_name(arguments.device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for name, count in (("idle", arguments.idle), ("ended", arguments.sessions)):
        if not count:
            continue
        rig = Rig(arguments.device)
        try:
            if name == "idle":
                record[name] = idle_sessions(rig, count, 10.0)
            else:
                record[name] = ended_sessions(rig, count, until)
        finally:
            rig.close()
        print(json.dumps(record[name]), file=sys.stderr, flush=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
