"""The lowering of instructions, by family. Importing a module registers its handlers."""

from __future__ import annotations

from importlib import import_module

_FAMILIES = (
    "atomics", "bits", "compare", "control", "convert", "floating", "half", "integer", "mbarrier", "memory", "texture",
    "video",
)  # fmt: skip


def load_all() -> None:
    """Import every family."""
    for name in _FAMILIES:
        import_module(f"{__name__}.{name}")
