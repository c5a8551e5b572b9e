"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

from migproxy.errors import UsageError

_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_UNITS |= {f"{unit}b": value for unit, value in list(_UNITS.items()) if unit not in ("", "b")}
_UNITS |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_UNITS |= {f"{unit}b": value for unit, value in list(_UNITS.items()) if unit.endswith("i")}


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: ``2GiB``, ``512M``, ``1.5 GB``, ``1048576``.

    Raises
    ------
    UsageError
        It means no positive size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise UsageError(f"bad size {text!r}: write a number with a unit, for example 2GiB or 512MiB")
    whole, _, fraction = match[1].partition(".")
    unit = _UNITS[match[2]]
    size = int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
    if size <= 0 or size >= 1 << 63:
        raise UsageError(f"bad size {text!r}: it must be positive and below 8 EiB")
    return size


def format_size(size: int) -> str:
    """Return bytes as people write them: exact in the largest binary unit that divides, otherwise with one decimal."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            whole, rest = divmod(size, 1 << shift)
            return f"{whole}{unit}" if not rest else f"{size / (1 << shift):.1f}{unit}"
    return f"{size}B"
