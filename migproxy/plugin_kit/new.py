"""``migproxy plugin new``: a package that works and passes its check, to be made into the plugin of another library.

The files are those of the tutorial in ``docs/plugins.md``, with the library's name in place of ``vecmath``.
"""

from __future__ import annotations

import keyword
from importlib.resources import files
from pathlib import Path

from migproxy.errors import UsageError

EXAMPLE = "vecmath"
#: Template → where it goes.
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "__init__.py": "migproxy_{name}/__init__.py",
    "table.py": "migproxy_{name}/table.py",
    "function.py": "migproxy_{name}/function.py",
    "executor.py": "migproxy_{name}/executor.py",
    "software.py": "migproxy_{name}/software.py",
    "checking.py": "migproxy_{name}/checking.py",
    "test_vecmath.py": "tests/test_{name}.py",
}


def template(name: str) -> str:
    """Return a template's text."""
    return files("migproxy.plugin_kit").joinpath("data", f"{name}.txt").read_text(encoding="utf-8")


def package_files(name: str) -> dict[str, str]:
    """Return the files of a package for library `name`: path in the package's folder → text."""
    camel = "".join(part.capitalize() for part in name.split("_"))
    return {
        path.format(name=name): template(source).replace("Vecmath", camel).replace(EXAMPLE, name)
        for source, path in FILES.items()
    }


def make_package(name: str, folder: Path, *, library: str = "") -> Path:
    """Write a package and return its folder.

    Parameters
    ----------
    name : str
        The plugin's name, and the library's.
    folder : Path
        Where ``migproxy-NAME`` is made.
    library : str
        Draft the table from this module instead; the other files are then starting points.

    Raises
    ------
    UsageError
        The name is no Python name, or the folder exists.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.lower() != name or not name.isascii():
        raise UsageError(f"{name!r} is no name for a plugin: small letters, digits and _ make one")
    target = folder / f"migproxy-{name.replace('_', '-')}"
    if target.exists():
        raise UsageError(f"{target} exists already")
    found = package_files(name)
    if library:
        from migproxy.plugin_kit.drafts import draft

        found[f"migproxy_{name}/table.py"] = draft(library) + "TABLES = (TABLE,)\n"
    for path, text in found.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return target
