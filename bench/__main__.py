"""Run the benchmarks natively and proxied, in turn, in one go; print ratios and write JSON.

::

    python -m bench [NAME…] [--size smoke|full] [--rounds N] [--out DIR] [--proxied-only]
    python -m bench.coldstart …       how long until a script's first result?
    python -m bench.colocation …      what do several functions on one GPU cost each other?
    python -m bench.applications …    whole programs: a Rodinia-like set, NPBench, pyhpc-benchmarks
    python -m bench.launch_profile    where does the time of one launch go, on both sides?
    python -m bench.softgpu           how fast is the software GPU, beside NumPy?
    python -m bench report DIR [--markdown FILE]  a page with tables and plots of what lies in DIR
    python -m bench ab BASE HEAD [NAME…]          two commits against each other

The first form runs pytest-benchmark files, one a question: ``test_copies.py``, ``test_launches.py``,
``test_latency.py``, ``test_api.py``, ``test_numpy_arena.py``, ``test_memory.py``. Each round runs them once in a plain
process and once under ``migproxy run`` with the same broker, in alternating order. A benchmark's figure is the median
over its rounds' medians; its spread the smallest and largest of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.rounds import (
    NAMES,
    Samples,
    collect,
    in_turn,
    modes_for,
    print_table,
    run_once,
    served,
    summarise,
    write_record,
)


def main() -> int:
    """Run what the command line asks for."""
    if sys.argv[1:2] == ["report"]:
        from bench.report import main as report

        return report(sys.argv[2:])
    if sys.argv[1:2] == ["ab"]:
        from bench.ab import main as ab

        return ab(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    parser.add_argument("--rounds", type=int, default=3, help="native and proxied processes each (default 3)")
    parser.add_argument("--out", type=Path, help="directory for results.json")
    parser.add_argument("--proxied-only", action="store_true", help="no native run, so no ratios (no GPU here)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    samples: Samples = {}
    failed = False
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as broker:
        modes = modes_for(broker, arguments.proxied_only)
        for number in range(arguments.rounds):
            for mode in in_turn(modes, number):
                result = run_once(mode, arguments.names, arguments.size, Path(scratch), broker)
                failed = failed or result["exit_code"] != 0
                collect(result, mode, samples)
            # After each round, so that what is cut short leaves the rounds that it made.
            rows = summarise(samples)
            write_record(arguments.out, "results", broker.gpu, arguments.size, rounds=number + 1, rows=rows)
    print_table(rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
