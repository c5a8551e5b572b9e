"""``migproxy mig plan|apply|clear``: partition a GPU for a list of functions, only when asked and only an idle one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from migproxy.device import mig
from migproxy.device.inventory import driver_present
from migproxy.errors import UsageError
from migproxy.sizes import format_size

_GPU = Annotated[int, typer.Option(help="Index of the GPU.")]
_REQUESTS = Annotated[list[str], typer.Argument(metavar="SIZE|PROFILE...", help="What each function needs.")]
_YES = Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(name="mig", help="Partition an idle GPU with MIG.", rich_markup_mode=None)
    group.command("plan", help="Propose a partition.")(plan)
    group.command("apply", help="Make the partition that plan proposes.")(apply)
    group.command("clear", help="Remove a GPU's instances.")(clear)
    app.add_typer(group)


@contextlib.contextmanager
def opened(index: int) -> Iterator[tuple[Any, Any, list[mig.Profile]]]:
    """Open NVML, a GPU and its profiles.

    Raises
    ------
    UsageError
        There is no such GPU, or it has no MIG.
    """
    if not driver_present():
        raise UsageError("there is no NVIDIA driver here, so there is nothing to partition")
    nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise UsageError(f"the NVIDIA driver does not work: {error}") from error
    try:
        if not 0 <= index < nvml.nvmlDeviceGetCount():
            raise UsageError(f"no GPU {index} here; there are {nvml.nvmlDeviceGetCount()}")
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        profiles = mig.read_profiles(nvml, handle)
        if not profiles:
            raise UsageError(f"GPU {index} has no MIG")
        yield nvml, handle, profiles
    except nvml.NVMLError as error:
        raise UsageError(f"NVML: {error}") from error
    finally:
        nvml.nvmlShutdown()


def show(parts: list[mig.Part]) -> None:
    """Print a plan."""
    for part in parts:
        end = part.start + part.size - 1
        memory = format_size(part.profile.memory)
        print(f"{part.request:>12} -> {part.profile.name:<12} {memory:>9}  memory slices {part.start}-{end}")


def plan(requests: _REQUESTS, gpu: _GPU = 0) -> int:
    """Propose a partition."""
    with opened(gpu) as (_, _, profiles):
        show(mig.plan(requests, profiles))
    return 0


def apply(requests: _REQUESTS, gpu: _GPU = 0, yes: _YES = False) -> int:
    """Make a partition."""
    with opened(gpu) as (nvml, handle, profiles):
        parts = mig.plan(requests, profiles)
        show(parts)
        if yes:
            mig.apply(nvml, handle, parts, profiles)
        else:
            mig.require_idle(nvml, handle)
            print("nothing was changed; --yes makes this partition")
    return 0


def clear(gpu: _GPU = 0, yes: _YES = False) -> int:
    """Remove a GPU's instances."""
    with opened(gpu) as (nvml, handle, profiles):
        if yes:
            print(f"{mig.clear(nvml, handle, profiles)} instances were removed")
        else:
            mig.require_idle(nvml, handle)
            print(f"{len(mig.instances(nvml, handle, profiles))} instances would be removed; --yes removes them")
    return 0
