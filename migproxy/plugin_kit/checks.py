"""The conformance kit: what ``migproxy plugin check`` holds a plugin to.

Each check gives findings; one that fails says what and where. What needs a function or could crash runs in a child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from migproxy.abi.tables import Table, problems
from migproxy.errors import MigproxyError, PluginError
from migproxy.interpose.plugin import Plugin, load_tables
from migproxy.plugin_kit.installed import find
from migproxy.plugin_kit.samples import Samples, plain_environment
from migproxy.session import connect

PART_SECONDS = 180.0
#: Names that one finding shows.
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
    verdict : str
        ``"ok"``, ``"failed"`` or ``"skipped"``.
    text : str
    """

    check: str
    verdict: str
    text: str


def _judged(check: str, wrong: list[str], fine: str) -> Finding:
    if not wrong:
        return Finding(check, "ok", fine)
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return Finding(check, "failed", "; ".join(wrong[:SHOWN]) + more)


def check_plugin(name: str, *, device: str = "auto", fuzzing: bool = True) -> Iterator[Finding]:
    """Check an installed plugin, finding by finding.

    Parameters
    ----------
    name : str
    device : str
        What the function runs on, as ``migproxy run --device`` takes it.
    fuzzing : bool
        Send hostile arguments to the executor half, too.
    """
    try:
        plugin = find(name)
        tables = load_tables(plugin)
        samples = Samples(plugin)
    except (MigproxyError, ValueError, ImportError, AttributeError) as error:
        yield Finding("declaration", "failed", f"{type(error).__name__}: {error}")
        return
    yield _declaration(plugin, tables)
    for table in tables:
        yield _sets(samples, table)
    if plugin.executor:
        yield from _executor_half(samples, tables)
        if fuzzing:
            yield _fuzz(name)
    yield from _function(name, device, samples)


def _declaration(plugin: Plugin, tables: tuple[Table, ...]) -> Finding:
    wrong = [each for table in tables for each in problems(table)]
    served = {table.library for table in tables if any(o.served.startswith("by") for o in table.operations.values())}
    unknown = sorted(served - {*plugin.libraries})
    wrong += [f"{each} has operations and is not among the plugin's libraries" for each in unknown]
    if plugin.libraries and not plugin.executor:
        wrong.append("it names libraries and no executor half")
    if not (plugin.after_import or plugin.replace):
        wrong.append("it neither patches nor replaces a module")
    entries = sum(len(table.operations) for table in tables)
    modules = len(plugin.after_import) + len(plugin.replace)
    fine = f"interface {plugin.interface}, {modules} modules, {entries} operations in {len(tables)} tables"
    return _judged("declaration", wrong, fine)


def _sets(samples: Samples, table: Table) -> Finding:
    """Compare a table with the installed library, as sets of names."""
    check = f"{table.library} against the library"
    names = samples.installed(table)
    if names is None:
        return Finding(check, "skipped", f"{table.module} cannot be read here")
    # What the executor half serves by hand may have names of its own on the wire.
    known = {name for name, entry in table.operations.items() if not entry.by_hand}
    missing = [] if table.partial else sorted(names - set(table.operations))
    wrong = [f"the table lacks {', '.join(missing[:SHOWN])}"] if missing else []
    if gone := sorted(known - names - samples.in_other_releases(table)):
        wrong.append(f"the library lacks {', '.join(gone[:SHOWN])}")
    return _judged(check, wrong, f"{len(names & set(table.operations))} of {len(names)} functions have entries")


def _executor_half(samples: Samples, tables: tuple[Table, ...]) -> Iterator[Finding]:
    for table in tables:
        if not any(entry.served in ("by the library", "by hand") for entry in table.operations.values()):
            continue
        check = f"{table.library} in the executor half"
        try:
            missing = samples.missing(table)
        except Exception as error:
            yield Finding(check, "failed", f"{type(error).__name__}: {error}")
            continue
        yield _judged(check, [f"it lacks {each}" for each in missing], "every entry that is served has its function")


def _child(part: str, name: str, env: dict[str, str]) -> tuple[dict[str, Any] | None, str]:
    """Run one part of the kit in a child; return what it found, or None and why it has no findings."""
    command = [sys.executable, "-m", "migproxy.plugin_kit.worker", part, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PART_SECONDS, check=False, env=env)
    except subprocess.TimeoutExpired:
        return None, f"no answer after {PART_SECONDS:.0f} s"
    lines = done.stdout.strip().splitlines()
    last = done.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
    if done.returncode or not lines:
        return None, f"the process ended with {done.returncode}: {last[0][:300]}"
    found: dict[str, Any] = json.loads(lines[-1])
    return found, ""


def _fuzz(name: str) -> Finding:
    found, why = _child("fuzz", name, plain_environment())
    if found is None:
        return Finding("hostile arguments", "failed", why)
    answers = ", ".join(f"{count:,} {answer}" for answer, count in sorted(found["answers"].items()))
    return _judged("hostile arguments", found["defects"], f"{found['calls']:,} calls: {answers}")


def _function(name: str, device: str, samples: Samples) -> Iterator[Finding]:
    # A function's environment needs a broker; a private one ends with this process.
    from migproxy.testing.processes import functions_environment

    os.environ[connect.DEVICE_VARIABLE] = device
    found, why = _child("function", name, functions_environment(os.getpid()))
    if found is None:
        yield Finding("in a function", "failed", why)
        return
    on = f" on {found['device']}"
    if not samples.has_smoke:
        yield Finding("use of the library", "skipped", "the plugin's check module has no smoke()")
    else:
        yield _judged("use of the library", [found["smoke"]] if found["smoke"] else [], f"smoke() passes{on}")
    for key, check, fine in (
        ("threads", "threads", "smoke() in 4 threads at once"),
        ("fork", "fork", "smoke() in a forked child, which works or says why not, and in the parent after it"),
    ):
        if key in found:
            yield _judged(check, found[key], fine)
    if "growth" in found:
        grown = [f"{count} more {kind} after ten times smoke()" for kind, count in found["growth"].items()]
        yield _judged("handle leaks", grown, "no kind of handle grows with use")
    yield from _operations(found)


def _operations(found: dict[str, Any]) -> Iterator[Finding]:
    if "lifetimes" in found and found["lifetimes"]["kinds"]:
        kinds = ", ".join(found["lifetimes"]["kinds"])
        yield _judged("lifetimes", found["lifetimes"]["wrong"], f"made and ended: {kinds}")
    if "errors" in found and found["errors"]["tried"]:
        tried = ", ".join(found["errors"]["tried"])
        yield _judged("errors", found["errors"]["wrong"], f"a handle that was never made is refused: {tried}")
    if "calls" in found:
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(found["calls"]["outcomes"].items()))
        trips = ", ".join(f"{count:,} wait {waits} times" for waits, count in sorted(found["calls"]["waits"].items()))
        yield _judged("round trips", found["calls"]["wrong"], f"{outcomes}; {trips}")


def check_all(names: list[str], report: Callable[[str, Finding], None], *, device: str = "auto") -> bool:
    """Check several plugins; `report` gets each finding as it comes. Return whether none failed.

    Raises
    ------
    PluginError
        A name is not installed.
    """
    fine = True
    for name in names:
        for finding in check_plugin(name, device=device):
            report(name, finding)
            fine = fine and finding.verdict != "failed"
    return fine


__all__ = ["Finding", "PluginError", "check_all", "check_plugin"]
