"""What is installed in this interpreter's environment: versions and entry points, as `importlib.metadata` finds them.

`importlib.metadata` parses a whole METADATA file for each version, and every function's start asks for a dozen; that
took 20 ms of each. Here a folder of ``sys.path`` is listed once, and a file is read up to the line that is wanted.
Where ``sys.path`` has something else than folders, or another finder of distributions is installed,
`importlib.metadata` is asked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

_SUFFIXES = (".dist-info", ".egg-info")
_SEPARATORS = re.compile(r"[-_.]+")


class Entry(NamedTuple):
    """An entry point.

    Attributes
    ----------
    name : str
    value : str
        ``"package.module"``, or ``"package.module:attribute"``.
    """

    name: str
    value: str

    def load(self) -> Any:
        """Import and return what it names."""
        import importlib

        module, _, attributes = self.value.partition(":")
        found: Any = importlib.import_module(module)
        for attribute in attributes.split(".") if attributes else ():
            found = getattr(found, attribute)
        return found


def version(distribution: str) -> str:
    """Return a distribution's version; empty if it is not installed."""
    folders = _folders()
    if folders is None:
        from importlib import metadata

        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return ""
    place = folders.get(_normal(distribution))
    if place is None:
        return ""
    for line in _lines(place, "METADATA", "PKG-INFO", ""):
        if not line.strip():
            break  # the description follows
        name, _, value = line.partition(":")
        if name.lower() == "version":
            return value.strip()
    return ""


def entry_points(group: str) -> list[Entry]:
    """Return the entry points of a group, of every distribution, in the order of ``sys.path``."""
    folders = _folders()
    if folders is None:
        from importlib import metadata

        return [Entry(each.name, each.value) for each in metadata.entry_points(group=group)]
    found, head = [], f"[{group}]"
    for place in folders.values():
        inside = False
        for line in _lines(place, "entry_points.txt"):
            text = line.strip()
            if text.startswith("["):
                inside = text == head
            elif inside and text and text[0] not in "#;":
                name, _, value = text.partition("=")
                found.append(Entry(name.strip(), value.strip()))
    return found


def _normal(name: str) -> str:
    return _SEPARATORS.sub("_", name).lower()


def _lines(place: str, *names: str) -> Iterator[str]:
    """Yield the lines of the first of a distribution's files that is there; an empty name is `place` itself."""
    for name in names:
        try:
            with open(os.path.join(place, name) if name else place, encoding="utf-8") as file:
                yield from file
        except OSError:
            continue
        return


def _folders() -> dict[str, str] | None:
    """Return where each distribution's metadata lies, by normalised name; the first in ``sys.path`` counts. None where
    this module cannot tell."""
    for finder in sys.meta_path:
        if hasattr(finder, "find_distributions") and getattr(finder, "__name__", "") != "PathFinder":
            return None
    folders: list[tuple[str, int]] = []
    for path in sys.path:
        folder = path or "."
        if folder.endswith(".egg"):
            return None
        try:
            facts = os.stat(folder)
        except OSError:
            continue
        if (facts.st_mode & 0o170000) == 0o040000:
            folders.append((os.path.abspath(folder), facts.st_mtime_ns))
        elif folder.endswith(".zip") and os.path.basename(folder) != _STANDARD_ZIP:
            return None
    return _listed(tuple(folders))


_STANDARD_ZIP = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"


@lru_cache(maxsize=8)
def _listed(folders: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Return where each distribution in some folders, as they were at some times, has its metadata."""
    found: dict[str, str] = {}
    for folder, _changed in folders:
        try:
            entries = sorted(os.listdir(folder))
        except OSError:  # not for this user to read: then nothing in it can be imported either
            continue
        # Two versions of one distribution in one folder are a broken environment; at least their order is the same.
        for entry in entries:
            if entry.endswith(_SUFFIXES):
                name = entry.rpartition(".")[0].partition("-")[0]
                found.setdefault(_normal(name), os.path.join(folder, entry))
    return found
