"""Run a library's own tests natively and through a broker, one after the other, and record what passes in both.

::

    cd SUITE; python …/tools/measure_suite.py OUT.json --suite NAME --library TEXT [--workers 14] [--quota 64GiB]
        [--device 0] [--native-seconds 200] [--proxied-seconds 300] [--again-seconds 30] [--part 0/2]
        -- PYTEST ARGUMENTS

Only what passes natively counts. The proxied run is one function with so many processes of pytest-xdist, on a broker of
its own; afterwards the broker is asked what is left. What failed there only is run once more, alone, in another
session. Outcomes go to OUT.native.jsonl and OUT.proxied.jsonl test by test, so that a run that is cut off leaves what
it has. OUT.json is a record for docs/data/compatibility, from which tools/make_compatibility.py makes the page; the
exceptions, which want reasons there, are printed. This file is also the pytest plugin that notes the outcomes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
#: The worst of a test's reports (setup, call, teardown) is its outcome.
WORST = (PASSED, "xpassed", "xfailed", SKIPPED, FAILED)
_OUT, _PART = "MIGPROXY_SUITE_OUTCOMES", "MIGPROXY_SUITE_PART"


# -- the plugin --------------------------------------------------------------------------------------------------------
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep every so-manieth test: parts of one size, whatever the files are."""
    part, _, parts = os.environ.get(_PART, "").partition("/")
    if parts:
        kept = items[int(part) :: int(parts)]
        config.hook.pytest_deselected(items=[each for n, each in enumerate(items) if n % int(parts) != int(part)])
        items[:] = kept


def pytest_runtest_logreport(report: Any) -> None:
    """Write a report down at once, where the workers' reports come together."""
    path = os.environ.get(_OUT)
    if path is None or "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.passed):
        return
    outcome, text = report.outcome, ""
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    elif report.skipped:
        text = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = str(crash.message if crash is not None else report.longrepr)
    with open(path, "a") as file:
        file.write(json.dumps({"id": report.nodeid, "outcome": outcome, "text": text[:1000]}) + "\n")


# -- the tool ----------------------------------------------------------------------------------------------------------
def read(path: Path) -> dict[str, tuple[str, str]]:
    """Return each test's outcome and what was said of it."""
    found: dict[str, tuple[str, str]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the run was cut off here
        known = found.get(row["id"])
        if known is None or WORST.index(row["outcome"]) > WORST.index(known[0]):
            found[row["id"]] = row["outcome"], (row["text"].strip().splitlines() or [""])[0][:240]
    return found


def counted(found: dict[str, tuple[str, str]]) -> str:
    """Say how many tests had which outcome."""
    counts = Counter(outcome for outcome, _ in found.values())
    return ", ".join(f"{counts[name]} {name}" for name in WORST if counts[name]) or "nothing ran"


def run(
    prefix: Sequence[str], arguments: Sequence[str], outcomes: Path, seconds: float, workers: int, part: str
) -> str:
    """Run pytest and return how long that took and how it ended; ends it in order at the limit."""
    outcomes.unlink(missing_ok=True)
    here = str(Path(__file__).resolve().parent)
    env = {**os.environ, _OUT: str(outcomes), _PART: part}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    command = [*prefix, "-m", "pytest", "-q", "-p", "measure_suite", "-p", "no:cacheprovider", "--tb=short"]
    command += ["-n", str(workers), "--dist", "worksteal"] if workers else []
    began, ended = time.monotonic(), ""
    with open(outcomes.with_suffix(".log"), "w") as log:
        process = subprocess.Popen([*command, *arguments], env=env, stdout=log, stderr=log, start_new_session=True)
        for how, patience in ((signal.SIGINT, seconds), (signal.SIGKILL, 15.0)):
            try:
                process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                ended = f", cut off after {seconds:.0f} s"
                os.killpg(process.pid, how)
        process.wait()
    return f"{counted(read(outcomes))} in {time.monotonic() - began:.0f} s{ended}"


def compare(native: dict[str, tuple[str, str]], proxied: dict[str, tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return the tests that pass natively and not proxied, though they ran, and those that did not run."""
    passed = [name for name, (outcome, _) in native.items() if outcome == PASSED]
    differ = [name for name in passed if name in proxied and proxied[name][0] != PASSED]
    return differ, [name for name in passed if name not in proxied]


def parse() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("--device", default="0")
    parser.add_argument("--quota", default="64GiB", help="of the function, which all its processes share")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--native-seconds", type=float, default=300.0, help="0: no native run")
    parser.add_argument("--proxied-seconds", type=float, default=300.0)
    parser.add_argument("--again-seconds", type=float, default=30.0)
    parser.add_argument("--part", default="", help="as 0/2: every second test, from the first")
    parser.add_argument("pytest", nargs="+", help="arguments of pytest")
    return parser.parse_args()


def main() -> int:
    """Run what the command line asks for."""
    arguments = parse()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from bench.rounds import device_name, start_broker
    from migproxy.cli.control import BrokerClient

    out: Path = arguments.out.resolve()
    native_file, proxied_file, again_file = (
        out.with_suffix(f".{name}.jsonl") for name in ("native", "proxied", "again")
    )
    again_file.unlink(missing_ok=True)
    workers, part = arguments.workers, arguments.part
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        print(text, flush=True)

    if arguments.native_seconds:
        said = run([sys.executable], arguments.pytest, native_file, arguments.native_seconds, workers, part)
        note(f"natively {said}")
    os.environ["MIGPROXY_DEVICE"] = arguments.device
    with tempfile.TemporaryDirectory() as scratch:
        broker = start_broker(Path(scratch), options=["--default-memory", arguments.quota])
        try:
            prefix = [sys.executable, "-m", "migproxy", "run", "--broker", broker.socket]
            said = run(prefix, arguments.pytest, proxied_file, arguments.proxied_seconds, workers, part)
            note(f"through the broker {said}")
            native, proxied = read(native_file), read(proxied_file)
            differ, missing = compare(native, proxied)
            if differ and arguments.again_seconds:
                once_more = [*options_of(arguments.pytest), *differ[:200]]
                said = run(prefix, once_more, again_file, arguments.again_seconds, 0, "")
                print(f"what differs, again and alone: {said}", flush=True)
            client = BrokerClient(broker.socket)
            (left,) = client.status().slices
            client.close()
            note(f"afterwards the broker had {left.sessions} sessions and {left.reserved} bytes promised")
        finally:
            broker.stop()
    if native:
        passed = sum(outcome == PASSED for outcome, _ in native.values())
        same = passed - len(differ) - len(missing)
        share = f"{same / max(passed, 1):.2%}"
        note(f"of the {passed} that pass natively {same} pass ({share}), {len(missing)} did not run")
        again = read(again_file)
        for name in differ:
            alone = f", alone {again[name][0]}" if name in again else ""
            print(f"{proxied[name][0]}{alone}: {name}\n    {proxied[name][1]}")
    counts = Counter(outcome for outcome, _ in proxied.values())
    record = {
        "suite": arguments.suite,
        "library": arguments.library,
        "device": "software GPU" if arguments.device == "software" else device_name(),
        "mode": "natively and through the broker in turn" if native else "through the broker",
        **{name: counts[name] for name in (PASSED, FAILED, SKIPPED)},
        "date": datetime.date.today().isoformat(),
        "notes": notes,
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def options_of(arguments: Sequence[str]) -> list[str]:
    """Return pytest's arguments without the files and folders that it is to collect."""
    return [each for each in arguments if not os.path.exists(each.split("::")[0])]


if __name__ == "__main__":
    sys.exit(main())
