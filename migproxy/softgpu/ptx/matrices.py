"""``ldmatrix`` in other PTX: each lane asks the lane that holds a row's address for it, and loads its own piece.

Compilers use it to change layouts, without any tensor core: a warp loads 8×8 matrices of 16-bit elements whose rows'
addresses are spread over its lanes. Lane ``t`` gets of matrix ``i``, whose rows are the addresses of lanes ``8i`` to
``8i + 7``, the pair of elements ``2(t mod 4)`` of row ``t div 4``, or of the transposed matrix.

The rewriting happens in the text, on one line, so that line numbers stay what they are.
"""

from __future__ import annotations

import re

_LDMATRIX = re.compile(
    r"(?<![\w.@%$])ldmatrix\.sync\.aligned\.m8n8\.x(?P<count>[124])(?P<trans>\.trans)?\.shared(?:::cta)?\.b16"
    r"\s*\{(?P<targets>[^}]*)\}\s*,\s*\[\s*(?P<base>%?[\w$]+)\s*(?:\+\s*(?P<offset>-?\d+))?\s*\]\s*;"
)
_GUARDED = re.compile(r"@!?%?[\w$]+\s+$")
_WIDE = re.compile(r"\.reg\s+\.[bus]64\s+([^;]*);")


def expand(source: str) -> str:
    """Return PTX without ``ldmatrix``; one under a predicate is left, and refused by name as before."""
    if "ldmatrix" not in source:
        return source
    wide = _wide_registers(source)

    def replaced(match: re.Match[str]) -> str:
        if _GUARDED.search(source, max(0, match.start() - 80), match.start()):
            return match[0]
        return _expansion(match, match["base"], wide=_is_wide(match["base"], wide))

    return _LDMATRIX.sub(replaced, source)


def _wide_registers(source: str) -> set[str]:
    """Return the 64-bit registers of a text: names, and prefixes of ``%rd<7>`` with the closing bracket's ``<``."""
    found: set[str] = set()
    for match in _WIDE.finditer(source):
        for name in match[1].split(","):
            found.add(name.strip().partition("<")[0] + ("<" if "<" in name else ""))
    return found


def _is_wide(name: str, wide: set[str]) -> bool:
    return name in wide or name.rstrip("0123456789") + "<" in wide


def _expansion(match: re.Match[str], base: str, *, wide: bool) -> str:
    targets = [each.strip() for each in match["targets"].split(",")]
    if len(targets) != int(match["count"]):
        return match[0]
    offset = match["offset"] or "0"
    address = f"cvt.u32.u64 %_lm0, {base};" if wide else f"mov.u32 %_lm0, {base};"
    lines = [
        "{ .reg .b32 %_lm<6>; .reg .b16 %_lh<2>;",
        address,
        f"add.s32 %_lm0, %_lm0, {offset};",
        "mov.u32 %_lm1, %laneid;",
    ]
    for number, target in enumerate(targets):
        lines += _transposed(number, target) if match["trans"] else _straight(number, target)
    return " ".join([*lines, "}"])


def _straight(number: int, target: str) -> list[str]:
    """A pair of neighbours of one row: 32 bits."""
    return [
        "shr.u32 %_lm2, %_lm1, 2;",
        f"add.s32 %_lm2, %_lm2, {8 * number};",
        "shfl.sync.idx.b32 %_lm3, %_lm0, %_lm2, 31, -1;",
        "and.b32 %_lm2, %_lm1, 3;",
        "shl.b32 %_lm2, %_lm2, 2;",
        "add.s32 %_lm3, %_lm3, %_lm2;",
        f"ld.shared.b32 {target}, [%_lm3];",
    ]


def _transposed(number: int, target: str) -> list[str]:
    """One element of each of two neighbouring rows."""
    return [
        "and.b32 %_lm2, %_lm1, 3;",
        "shl.b32 %_lm2, %_lm2, 1;",
        f"add.s32 %_lm2, %_lm2, {8 * number};",
        "shfl.sync.idx.b32 %_lm3, %_lm0, %_lm2, 31, -1;",
        "add.s32 %_lm2, %_lm2, 1;",
        "shfl.sync.idx.b32 %_lm4, %_lm0, %_lm2, 31, -1;",
        "shr.u32 %_lm2, %_lm1, 2;",
        "shl.b32 %_lm2, %_lm2, 1;",
        "add.s32 %_lm3, %_lm3, %_lm2;",
        "add.s32 %_lm4, %_lm4, %_lm2;",
        "ld.shared.b16 %_lh0, [%_lm3];",
        "ld.shared.b16 %_lh1, [%_lm4];",
        f"mov.b32 {target}, {{%_lh0, %_lh1}};",
    ]
