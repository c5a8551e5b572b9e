"""Writes ``docs/ptx-coverage.md`` from the instruction table: ``python -m migproxy.softgpu.ptx.coverage``."""

from __future__ import annotations

import sys

from migproxy.softgpu.ptx import emitter, lower, special
from migproxy.softgpu.ptx.lower import specials
from migproxy.softgpu.ptx.table import SUSPENDING, TABLE, Status

_INTRO = """# PTX on the software GPU

Generated from `migproxy/softgpu/ptx/table.py` by `python -m migproxy.softgpu.ptx.coverage`; a test holds the two
together. *done*: compiled, in the forms that PTX ISA 8.x defines for sm_80 to sm_90 unless the note says otherwise.
*refused by name*: a module that contains it does not load, and the error names the instruction, its line and the
reason. *out of scope*: newer or special hardware; refused in the same way. Text that PTX does not define is refused as
unknown.

"""
_FUNCTIONS = (
    "`vprintf`, `__assertfail`, `malloc`, `free`, `cudaCGGetIntrinsicHandle`, `cudaCGSynchronize`. "
    "Others (dynamic parallelism, `cudaMalloc` on the device) are refused by name when the module is loaded."
)


def render() -> str:
    """The page."""
    lines = [_INTRO + "| instruction | group | status | note |", "|---|---|---|---|"]
    for entry in sorted(TABLE.values(), key=lambda item: (item.group, item.name)):
        lines.append(f"| `{entry.name}` | {entry.group} | {entry.status.value} | {entry.note} |")
    counts = {status: sum(entry.status is status for entry in TABLE.values()) for status in Status}
    lines += ["", ", ".join(f"{count} {status.value}" for status, count in counts.items()) + "."]
    done = sorted(name for name in special.NAMES if specials.known(name))
    refused = sorted(special.NAMES - set(done))
    lines += ["", "## Special registers", "", "Done: " + ", ".join(f"`{name}`" for name in done) + ".", "",
              "Refused by name: " + ", ".join(f"`{name}`" for name in refused) + "."]  # fmt: skip
    lines += ["", "## Functions that the device runtime provides", "", _FUNCTIONS]
    return "\n".join(lines) + "\n"


def disagreements() -> list[str]:
    """Instructions whose table entry and lowering do not fit."""
    lower.load_all()
    out = []
    for entry in TABLE.values():
        lowered = entry.name in emitter.HANDLERS or entry.name in SUSPENDING
        if lowered != (entry.status is Status.DONE):
            out.append(f"{entry.name}: {entry.status.value}, but {'a' if lowered else 'no'} lowering")
    out += [
        f"{name}: lowered, but not in the table" for name in emitter.HANDLERS if name not in TABLE and name[0] != "$"
    ]
    return out


if __name__ == "__main__":
    sys.stdout.write(render())
