"""Run the benchmarks natively and proxied, in turn, in one go; print ratios and write JSON.

::

    python -m bench [NAME…] [--size smoke|full] [--rounds N] [--out DIR] [--proxied-only]
    python -m bench.colocation [--out DIR] …     several functions on one GPU
    python -m bench report DIR [--markdown FILE]  a page with tables and plots of what lies in DIR
    python -m bench ab BASE HEAD [NAME…]          two commits against each other

Each round runs pytest-benchmark once in a plain process and once under ``migproxy run`` with the same warm broker, in
alternating order. A benchmark's figure is the median over its rounds' medians; its spread the smallest and largest of
them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.rounds import NAMES, Samples, collect, machine, print_table, run_once, start_broker, summarise


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
    modes = ["proxied"] if arguments.proxied_only else ["native", "proxied"]
    samples: Samples = {}
    with tempfile.TemporaryDirectory() as scratch:
        broker = start_broker(Path(scratch))
        try:
            for number in range(arguments.rounds):
                for mode in modes if number % 2 == 0 else reversed(modes):
                    result = run_once(mode, arguments.names, arguments.size, Path(scratch), broker)
                    collect(result, mode, samples)
        finally:
            broker.terminate()
            broker.wait(10)
    rows = summarise(samples)
    print_table(rows)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        # Where the figures went is nobody else's business; everything else makes them again.
        command = [word for word in sys.argv[1:] if word not in ("--out", str(arguments.out))]
        facts = {"machine": machine(), "command": command, "size": arguments.size, "rows": rows}
        (arguments.out / "results.json").write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
