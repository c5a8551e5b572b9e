"""MIG: which partition of a GPU suits a list of functions, and making it. Profiles and placements are read from NVML.

Nothing here runs unless somebody asks for it by ``migproxy mig``, and nothing is changed on a GPU that is in use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migproxy.errors import UsageError
from migproxy.sizes import format_size, parse_size


@dataclass(frozen=True)
class Profile:
    """One kind of GPU instance.

    Attributes
    ----------
    number : int
        NVML's profile id, as it creates instances.
    name : str
        For example ``3g.40gb``.
    memory : int
        Bytes.
    slices : int
        Compute slices: the *n* of ``ng``.
    most : int
        Instances of this profile at a time.
    placements : tuple of (int, int)
        Where one may lie: first memory slice and how many.
    """

    number: int
    name: str
    memory: int
    slices: int
    most: int
    placements: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Part:
    """One instance of a plan: what was asked for, and the profile and place it gets."""

    request: str
    profile: Profile
    start: int
    size: int


def read_profiles(nvml: Any, handle: Any) -> list[Profile]:
    """Return the profiles of a GPU, smallest first."""
    found: list[Profile] = []
    for index in range(nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, index, version=2)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            continue  # this GPU has no such profile
        name = info.name.decode() if isinstance(info.name, bytes) else str(info.name)
        found.append(
            Profile(
                number=info.id,
                name=name.removeprefix("MIG ").strip(),
                memory=info.memorySizeMB << 20,
                slices=info.sliceCount,
                most=info.instanceCount,
                placements=_placements(nvml, handle, info.id),
            )
        )
    return sorted(found, key=lambda each: (each.memory, each.slices, each.name))


def _placements(nvml: Any, handle: Any, number: int) -> tuple[tuple[int, int], ...]:
    count = ctypes.c_uint(0)
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, number, None, ctypes.byref(count))
    array = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, number, array, ctypes.byref(count))
    return tuple((each.start, each.size) for each in array[: count.value])


def candidates(request: str, profiles: Sequence[Profile]) -> list[Profile]:
    """Return the profiles that satisfy a request, the most modest first: a profile's name, or a size of memory.

    Raises
    ------
    UsageError
        None does.
    """
    named = [each for each in profiles if each.name == request]
    if named:
        return named
    known = ", ".join(each.name for each in profiles)
    try:
        wanted = parse_size(request)
    except UsageError:
        raise UsageError(f"{request!r} is neither a size nor a profile of this GPU: {known}") from None
    # Media extensions and graphics cost nothing in memory but exist once: not for those that ask for memory only.
    fitting = [each for each in profiles if each.memory >= wanted and "+" not in each.name and "-" not in each.name]
    if not fitting:
        raise UsageError(f"no profile of this GPU has {format_size(wanted)}; there are {known}")
    return fitting


def plan(requests: Sequence[str], profiles: Sequence[Profile]) -> list[Part]:
    """Return a partition that gives each request an instance, in the order of the requests.

    It searches with the largest requests first, each with the most modest profile that still leaves room for the
    others.

    Raises
    ------
    UsageError
        There is none.
    """
    choices = [candidates(request, profiles) for request in requests]
    order = sorted(range(len(requests)), key=lambda index: (-choices[index][0].memory, -choices[index][0].slices))
    total = max((each.slices for each in profiles), default=0)
    chosen: dict[int, Part] = {}
    if not _place(order, 0, requests, choices, total, 0, set(), chosen):
        raise UsageError(f"no partition of this GPU holds {', '.join(requests)} at the same time")
    return [chosen[index] for index in range(len(requests))]


def _place(
    order: Sequence[int],
    position: int,
    requests: Sequence[str],
    choices: Sequence[Sequence[Profile]],
    slices_left: int,
    taken: int,
    failed: set[tuple[int, int, int, tuple[str, ...]]],
    chosen: dict[int, Part],
) -> bool:
    if position == len(order):
        return True
    used = tuple(sorted(part.profile.name for part in chosen.values()))
    state = (position, slices_left, taken, used)
    if state in failed:
        return False
    index = order[position]
    for profile in choices[index]:
        if profile.slices > slices_left or used.count(profile.name) >= profile.most:
            continue
        for start, size in profile.placements:
            mask = ((1 << size) - 1) << start
            if taken & mask:
                continue
            chosen[index] = Part(requests[index], profile, start, size)
            if _place(
                order, position + 1, requests, choices, slices_left - profile.slices, taken | mask, failed, chosen
            ):
                return True
            del chosen[index]
    failed.add(state)
    return False


def require_idle(nvml: Any, handle: Any) -> None:
    """Refuse a GPU on which anything runs.

    Raises
    ------
    UsageError
        The message names the processes.
    """
    running = {
        process.pid
        for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses)
        for process in ask(handle)
    }
    if running:
        raise UsageError(
            f"the GPU is in use by process {', '.join(str(pid) for pid in sorted(running))}; nothing was changed"
        )


def instances(nvml: Any, handle: Any, profiles: Sequence[Profile]) -> list[tuple[Profile, Any]]:
    """Return the GPU instances that exist, with their profiles."""
    found = []
    for profile in profiles:
        array = (nvml.c_nvmlGpuInstance_t * profile.most)()
        count = ctypes.c_uint(0)
        nvml.nvmlDeviceGetGpuInstances(handle, profile.number, array, ctypes.byref(count))
        found += [(profile, array[index]) for index in range(count.value)]
    return found


def apply(nvml: Any, handle: Any, parts: Sequence[Part], profiles: Sequence[Profile]) -> None:
    """Make a planned partition on an idle GPU in MIG mode that has no instances yet.

    Raises
    ------
    UsageError
        The GPU is in use, is not in MIG mode, or is partitioned already; nothing was changed.
    """
    require_idle(nvml, handle)
    if not nvml.nvmlDeviceGetMigMode(handle)[0]:
        raise UsageError("the GPU is not in MIG mode; turn it on first (nvidia-smi -mig 1), which resets the GPU")
    if instances(nvml, handle, profiles):
        raise UsageError("the GPU is partitioned already; migproxy mig clear removes its instances")
    for part in parts:
        placement = nvml.c_nvmlGpuInstancePlacement_t(part.start, part.size)
        instance = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(handle, part.profile.number, ctypes.byref(placement))
        nvml.nvmlGpuInstanceCreateComputeInstance(instance, _whole(nvml, instance, part.profile.slices))


def _whole(nvml: Any, instance: Any, slices: int) -> int:
    """Return the id of the compute instance profile that takes a whole GPU instance."""
    for index in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(
                instance, index, nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
            )
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            continue
        if info.sliceCount == slices:
            return int(info.id)
    raise UsageError(f"the driver offers no compute instance of {slices} slices")


def clear(nvml: Any, handle: Any, profiles: Sequence[Profile]) -> int:
    """Remove every instance of an idle GPU; returns how many there were.

    Raises
    ------
    UsageError
        The GPU is in use; nothing was changed.
    """
    require_idle(nvml, handle)
    existing = instances(nvml, handle, profiles)
    for _, instance in existing:
        for index in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            try:
                info = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(
                    instance, index, nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
                )
            except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
                continue
            array = (nvml.c_nvmlComputeInstance_t * info.instanceCount)()
            count = ctypes.c_uint(0)
            nvml.nvmlGpuInstanceGetComputeInstances(instance, info.id, array, ctypes.byref(count))
            for position in range(count.value):
                nvml.nvmlComputeInstanceDestroy(array[position])
        nvml.nvmlGpuInstanceDestroy(instance)
    return len(existing)
