"""From the name of a device to slices: ``auto``, ``software``, an index, a GPU's or MIG instance's UUID, a MIG profile
such as ``1g.10gb``, which means all instances of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from migproxy.device.inventory import Inventory, Slice, read_inventory, software_slice
from migproxy.errors import UsageError

_GPU_UUID = re.compile(r"GPU-[0-9a-f-]{8,36}")
_MIG_UUID = re.compile(r"MIG-[0-9A-Za-z/-]{8,80}")
_PROFILE = re.compile(r"[0-9](?:c\.[0-9])?g\.[0-9]{1,4}gb(?:[+-][a-z.]{1,12})*")


def check_name(name: str) -> str:
    """Return a device name in its canonical form.

    Raises
    ------
    UsageError
        No device can be called so.
    """
    text = name.strip()
    if text in ("auto", "software"):
        return text
    if re.fullmatch(r"[0-9]{1,3}", text):
        return f"gpu{int(text)}"
    known = re.compile(r"gpu[0-9]{1,3}"), _GPU_UUID, _MIG_UUID, _PROFILE
    if any(each.fullmatch(text) for each in known):
        return text
    raise UsageError(
        f"unknown device {name!r}: it is auto, software, a GPU's index, a GPU-… or MIG-… UUID, or a MIG profile"
    )


def _matches(candidate: Slice, name: str) -> bool:
    if candidate.profile and candidate.profile == name:
        return True
    return candidate.name == name or (candidate.uuid.startswith(name) if name.startswith(("GPU-", "MIG-")) else False)


def _describe(slices: Sequence[Slice]) -> str:
    return ", ".join(candidate.name for candidate in slices) or "none"


def select(name: str, slices: Sequence[Slice]) -> list[Slice]:
    """Return those of `slices` that `name` means; ``auto`` means all, a profile all MIG instances of it.

    Raises
    ------
    UsageError
        None has that name, or several have a name that means one.
    """
    canonical = check_name(name)
    if canonical == "auto":
        return list(slices)
    found = [candidate for candidate in slices if _matches(candidate, canonical)]
    if len(found) > 1 and not _PROFILE.fullmatch(canonical):
        raise UsageError(f"device {name!r} is ambiguous: {_describe(found)}")
    if not found:
        raise UsageError(f"no device {name!r} here; there is: {_describe(slices)}")
    return found


def slices_to_serve(
    names: Sequence[str], *, software_memory: int = 0, read: Callable[[], Inventory] = read_inventory
) -> list[Slice]:
    """Return the slices that a broker started with ``--device`` `names` serves.

    ``auto`` is every GPU and MIG instance, and the software GPU only where there is no NVIDIA driver.

    Raises
    ------
    UsageError
        A name means nothing here.
    migproxy.device.inventory.DriverBroken
        A driver is installed and does not work (unless only ``software`` was asked for).
    """
    wanted = [check_name(name) for name in names] or ["auto"]
    chosen: list[Slice] = []
    inventory: Inventory | None = None
    for name in wanted:
        if name == "software":
            chosen.append(software_slice(software_memory))
            continue
        if inventory is None:
            inventory = read()
        if name == "auto" and not inventory.driver:
            chosen.append(software_slice(software_memory))
        elif name == "auto" and not inventory.slices:
            raise UsageError("an NVIDIA driver is installed but there is no GPU to use; choose --device software")
        elif name in inventory.mig_parents:
            raise UsageError(f"{name} is in MIG mode: name one of its instances: {_describe(inventory.slices)}")
        else:
            chosen.extend(select(name, inventory.slices))
    return list(dict.fromkeys(chosen))
