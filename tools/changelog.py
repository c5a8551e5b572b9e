"""Move the changelog's fragments into CHANGELOG.md at a release: ``tools/changelog.py VERSION``, see changes/."""

from __future__ import annotations

import datetime
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"added": "Added", "changed": "Changed", "fixed": "Fixed", "removed": "Removed"}
FRAGMENT = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)\.(?P<kind>[a-z]+)\.md")
#: Releases are entered below this line.
MARKER = "<!-- releases -->"


def fragments(folder: Path) -> dict[str, list[Path]]:
    """Return the fragments of each kind.

    Raises
    ------
    ValueError
        A file is not named NAME.KIND.md, or is empty.
    """
    found: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    for path in sorted(folder.iterdir()):
        if path.name == "README.md":
            continue
        match = FRAGMENT.fullmatch(path.name)
        if not match or match["kind"] not in KINDS:
            raise ValueError(f"changes/{path.name}: name it NAME.KIND.md, KIND one of {', '.join(KINDS)}")
        if not path.read_text().strip():
            raise ValueError(f"changes/{path.name} is empty")
        found[match["kind"]].append(path)
    return found


def section(version: str, date: str, found: dict[str, list[Path]]) -> str:
    """Return the changelog's section for a release."""
    lines = [f"## {version} ({date})", ""]
    for kind, paths in found.items():
        if not paths:
            continue
        lines += [f"### {KINDS[kind]}", ""]
        for path in paths:
            text = " ".join(path.read_text().split())
            lines += textwrap.wrap(
                text, 120, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
        lines.append("")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the release's section and delete the fragments."""
    if len(arguments) != 1:
        print("usage: python tools/changelog.py VERSION", file=sys.stderr)
        return 2
    found = fragments(ROOT / "changes")
    changelog = ROOT / "CHANGELOG.md"
    before, marker, after = changelog.read_text().partition(MARKER)
    if not marker:
        print(f"CHANGELOG.md has lost its line {MARKER}", file=sys.stderr)
        return 1
    text = section(arguments[0], datetime.date.today().isoformat(), found)
    changelog.write_text(f"{before}{marker}\n\n{text}{after.lstrip()}")
    for paths in found.values():
        for path in paths:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
