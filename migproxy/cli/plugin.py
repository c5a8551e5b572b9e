"""``migproxy plugin``: for authors of plugins, and to see which are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migproxy.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List, make, draft and check plugins.", no_args_is_help=True)
    group.command("list", help="List the installed plugins.")(list_plugins)
    group.command("new", help="Make a package for a new plugin.")(new)
    group.command("inspect", help="Draft a table of operations from an importable module.")(inspect_module)
    group.command("check", help="Hold installed plugins to the conformance kit.")(check)
    app.add_typer(group, name="plugin")


def list_plugins() -> int:
    """List the installed plugins with what is wrong with them."""
    from migproxy.plugin_kit.installed import lines

    found = list(lines())
    for _, line in found:
        print(line)
    return 0 if all(fine for fine, _ in found) else 1


def new(
    name: Annotated[str, typer.Argument(help="A Python name; the package becomes migproxy-NAME.")],
    folder: Annotated[Path, typer.Option("--to", help="Where to make the package's folder.")] = Path(),
    library: Annotated[str, typer.Option(help="Draft the table from this importable module instead.")] = "",
) -> int:
    """Make a package."""
    from migproxy.plugin_kit.new import make_package

    made = make_package(name, folder, library=library)
    print(f"{made}: pip install -e {made}, then migproxy plugin check {name}")
    return 0


def inspect_module(
    module: Annotated[str, typer.Argument(help="Dotted name of a module, compiled by Cython or plain.")],
) -> int:
    """Print the draft of a table."""
    from migproxy.plugin_kit.drafts import draft

    print(draft(module), end="")
    return 0


def check(
    names: Annotated[list[str] | None, typer.Argument(help="Plugins; all that are installed if none is named.")] = None,
    device: Annotated[str, typer.Option(help="As for migproxy run: auto, software, an index or a UUID.")] = "auto",
) -> int:
    """Check plugins; the exit code is 1 if one fails."""
    from migproxy.plugin_kit.checks import Finding, check_all
    from migproxy.plugin_kit.installed import names as installed_names

    known = installed_names()
    if unknown := [name for name in names or () if name not in known]:
        raise UsageError(f"no plugin {unknown[0]!r} is installed; there are {', '.join(known) or 'none'}")

    def show(name: str, finding: Finding) -> None:
        verdict = finding.verdict.upper() if finding.verdict == "failed" else finding.verdict
        print(f"{name}: {finding.check}: {verdict}: {finding.text}", flush=True)

    return 0 if check_all(names or known, show, device=device) else 1
