"""The repository's files and what they import, for the tests about the repository itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("migproxy", "plugins", "tests", "bench", "tools", "docs", "changes", ".ci")
TEXT = (".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".cfg", ".pth", ".in", "")


def files(*places: str, suffixes: tuple[str, ...] = TEXT) -> list[Path]:
    """Return the text files below the given places (all of them if none is given) and in the root."""
    found = []
    for place in places or PLACES:
        found += [path for path in (ROOT / place).rglob("*") if path.is_file()]
    if not places:
        found += [path for path in ROOT.iterdir() if path.is_file()]
    return sorted(path for path in found if path.suffix in suffixes and "__pycache__" not in path.parts)


def sources(*places: str) -> list[Path]:
    """Return the Python files below the given places."""
    return files(*places, suffixes=(".py",))


def name_of(path: Path) -> str:
    """Return a path as the repository names it."""
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """Return the dotted name under which a source file is imported."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "plugins":
        parts[0] = "migproxy_plugins"
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module) for each import of a file, wherever it stands: in functions and for type checkers too."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # ``from migproxy.softgpu import container`` imports migproxy.softgpu.container.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
