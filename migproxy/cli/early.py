"""``migproxy run`` without a second interpreter: `migproxy.startup` calls `become` in one that was started for it.

What cannot be done so (``--report``, which needs somebody who stays; ``--help``; a script on standard input) is left to
`migproxy.cli.main`, which the interpreter then goes on to. See docs/decisions/broker-wake.md.
"""

from __future__ import annotations

import os
import sys


def become() -> None:
    """Become the function, if this interpreter is about to run ``migproxy run`` and that can be done here."""
    before = _before_run()
    if before is None:
        return
    from migproxy.cli.run_options import parse, split

    own, rest = split(sys.argv[2:])
    options = parse(own)
    if options is None or options.report or (not options.module and rest[:1] in ([], ["-"])):
        return
    from migproxy.cli import becoming_unsafe

    now = {"module": "migproxy"} if sys.argv[0] == "-m" else {"script": sys.argv[0]}
    place = becoming_unsafe.find(**now)
    if place is None:
        return
    from migproxy.cli.main import guarded
    from migproxy.cli.run import prepare

    code, arguments = guarded(lambda: prepare(options, rest))
    if arguments is None:
        # `site` reports any exception of a .pth line and goes on, so this is the only way to stop.
        sys.stderr.flush()
        os._exit(code)
    sys.orig_argv[:] = [*before, *(["-m", options.module, *arguments] if options.module else arguments)]
    sys.argv[:] = ["-m", *arguments] if options.module else arguments
    place.become(options.module, sys.argv)


def _before_run() -> list[str] | None:
    """Return this interpreter and its options if it was started as ``python -m migproxy run`` or ``migproxy run``;
    else None."""
    if len(sys.orig_argv) <= len(sys.argv):  # an interpreter in another program
        return None
    before, given = sys.orig_argv[: -len(sys.argv)], sys.orig_argv[-len(sys.argv)]
    if sys.argv[0] == "-m":
        return before[:-1] if before[-1:] == ["-m"] and given == "migproxy" else None
    return before if os.path.basename(given) == "migproxy" and given == sys.argv[0] else None
