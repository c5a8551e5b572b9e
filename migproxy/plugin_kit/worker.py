"""The processes of the conformance kit: ``python -m migproxy.plugin_kit.worker PART PLUGIN``.

``fuzz`` runs the executor half in a plain process; ``function`` runs in a function's. Each prints its findings as one
line of JSON, the last of its standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from migproxy.interpose.plugin import Plugin
from migproxy.plugin_kit.installed import find


def fuzz(plugin: Plugin) -> dict[str, Any]:
    """Send hostile arguments to the executor half."""
    from migproxy.plugin_kit.fuzz import Fuzzer

    return Fuzzer(plugin).run()


def function(plugin: Plugin) -> dict[str, Any]:
    """Use the library as a function does."""
    from migproxy.plugin_kit import calls
    from migproxy.plugin_kit.samples import Samples
    from migproxy.session import api

    samples = Samples(plugin)
    found: dict[str, Any] = {"device": api.device_name(0)}
    if samples.has_smoke:
        found["smoke"] = _failure(samples.smoke)
        if not found["smoke"]:
            found["threads"] = calls.in_threads(samples.smoke)
            found["growth"] = calls.growth(samples.smoke)
            found["fork"] = calls.after_fork(samples.smoke, inherits=samples.inherits)
    caller = calls.Caller(plugin)
    if caller.tables:
        found["lifetimes"] = caller.lifetimes()
        found["errors"] = caller.errors()
        if samples.calls_on_gpu or "software" in found["device"].lower():
            found["calls"] = caller.count()
    return found


def _failure(work: Callable[[], None]) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> int:
    """Run one part and print what it found."""
    part, name = sys.argv[1:]
    found = {"fuzz": fuzz, "function": function}[part](find(name))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
