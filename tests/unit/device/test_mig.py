"""MIG plans against a stand-in for NVML with the profiles of real GPUs.

The tables are those of NVIDIA's MIG User Guide, chapter "Supported MIG Profiles"
(https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html). Nothing here touches a GPU.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migproxy.device import mig
from migproxy.errors import UsageError

#: Compute slices, instances and placements (first memory slice, memory slices); the same on all these GPUs.
SHAPES = {
    "1g": (1, 7, [(start, 1) for start in range(7)]),
    "1g+me": (1, 1, [(start, 1) for start in range(7)]),
    "1g2": (1, 4, [(start, 2) for start in (0, 2, 4, 6)]),
    "2g": (2, 3, [(start, 2) for start in (0, 2, 4)]),
    "3g": (3, 2, [(0, 4), (4, 4)]),
    "4g": (4, 1, [(0, 4)]),
    "7g": (7, 1, [(0, 8)]),
}
GPUS = {
    "A100-40": {"1g": 5, "1g+me": 5, "1g2": 10, "2g": 10, "3g": 20, "4g": 20, "7g": 40},
    "A100-80": {"1g": 10, "1g+me": 10, "1g2": 20, "2g": 20, "3g": 40, "4g": 40, "7g": 80},
    "H100-80": {"1g": 10, "1g+me": 10, "1g2": 20, "2g": 20, "3g": 40, "4g": 40, "7g": 80},
    "H200": {"1g": 18, "1g+me": 18, "1g2": 35, "2g": 35, "3g": 71, "4g": 71, "7g": 141},
    "B200": {"1g": 23, "1g+me": 23, "1g2": 45, "2g": 45, "3g": 90, "4g": 90, "7g": 180},
}


class Placement(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint), ("size", ctypes.c_uint)]


class Nvml:
    """The part of NVML that MIG needs, with a GPU that keeps its own books."""

    NVML_GPU_INSTANCE_PROFILE_COUNT = 18
    NVML_COMPUTE_INSTANCE_PROFILE_COUNT = 9
    NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED = 0
    NVMLError_NotSupported = NVMLError_InvalidArgument = type("NotSupported", (Exception,), {})
    c_nvmlGpuInstancePlacement_t = Placement
    c_nvmlGpuInstance_t = c_nvmlComputeInstance_t = ctypes.c_void_p

    def __init__(self, gpu: str, *, mode: int = 1, busy: tuple[int, ...] = ()) -> None:
        self.table = list(GPUS[gpu].items())
        self.mode, self.busy = mode, busy
        self.made: dict[int, tuple[str, int, int, list[int]]] = {}
        self.next = 100

    def nvmlDeviceGetGpuInstanceProfileInfo(self, handle: Any, index: int, version: int) -> Any:
        assert version == 2
        if index >= len(self.table):
            raise self.NVMLError_NotSupported
        shape, memory = self.table[index]
        slices, most, _ = SHAPES[shape]
        name = f"MIG {slices}g.{memory}gb{'+me' if shape.endswith('+me') else ''}"
        return SimpleNamespace(
            id=index, name=name.encode(), memorySizeMB=memory * 1024 - 256, sliceCount=slices, instanceCount=most
        )

    def nvmlDeviceGetGpuInstancePossiblePlacements(self, handle: Any, number: int, array: Any, count: Any) -> None:
        places = SHAPES[self.table[number][0]][2]
        count._obj.value = len(places)
        for index, (start, size) in enumerate(places if array is not None else ()):
            array[index].start, array[index].size = start, size

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.busy]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Any) -> list[Any]:
        return []

    def nvmlDeviceGetMigMode(self, handle: Any) -> tuple[int, int]:
        return self.mode, self.mode

    def nvmlDeviceGetGpuInstances(self, handle: Any, number: int, array: Any, count: Any) -> None:
        keys = [key for key, (shape, *_) in self.made.items() if shape == self.table[number][0]]
        count._obj.value = len(keys)
        for index, key in enumerate(keys):
            array[index] = key

    def nvmlDeviceCreateGpuInstanceWithPlacement(self, handle: Any, number: int, placement: Any) -> int:
        start, size = placement._obj.start, placement._obj.size
        shape = self.table[number][0]
        assert (start, size) in SHAPES[shape][2]
        for _, other, length, _ in self.made.values():
            assert start + size <= other or other + length <= start, "instances overlap"
        self.next += 1
        self.made[self.next] = (shape, start, size, [])
        return self.next

    def nvmlGpuInstanceGetComputeInstanceProfileInfo(self, instance: int, index: int, engine: int) -> Any:
        whole = SHAPES[self.made[instance][0]][0]
        if index + 1 > whole or index > 7:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(id=index, sliceCount=index + 1, instanceCount=whole // (index + 1))

    def nvmlGpuInstanceCreateComputeInstance(self, instance: int, number: int) -> None:
        self.made[instance][3].append(number)

    def nvmlGpuInstanceGetComputeInstances(self, instance: int, number: int, array: Any, count: Any) -> None:
        found = [each for each in self.made[instance][3] if each == number]
        count._obj.value = len(found)
        for index in range(len(found)):
            array[index] = instance * 10 + number

    def nvmlComputeInstanceDestroy(self, key: int) -> None:
        self.made[key // 10][3].remove(key % 10)

    def nvmlGpuInstanceDestroy(self, key: int) -> None:
        assert not self.made[key][3], "it still has compute instances"
        del self.made[key]


def names(parts: list[mig.Part]) -> list[str]:
    return [part.profile.name for part in parts]


def profiles_of(gpu: str) -> list[mig.Profile]:
    return mig.read_profiles(Nvml(gpu), None)


@pytest.mark.parametrize("gpu", sorted(GPUS))
def test_profiles_are_read_smallest_first(gpu: str) -> None:
    found = profiles_of(gpu)
    assert [each.slices for each in found] == [1, 1, 1, 2, 3, 4, 7]
    assert found[0].name == f"1g.{GPUS[gpu]['1g']}gb"
    assert found[-1].placements == ((0, 8),)


def test_requests_get_the_most_modest_profiles_that_fit_together() -> None:
    profiles = profiles_of("H100-80")
    assert names(mig.plan(["9GiB"] * 7, profiles)) == ["1g.10gb"] * 7
    assert names(mig.plan(["30GiB", "8GiB"], profiles)) == ["3g.40gb", "1g.10gb"]
    assert names(mig.plan(["3g.40gb", "2g.20gb", "9GiB", "9GiB"], profiles)) == [
        "3g.40gb",
        "2g.20gb",
        "1g.10gb",
        "1g.10gb",
    ]
    assert names(mig.plan(["15GiB"] * 4, profiles)) == ["1g.20gb"] * 4
    assert names(mig.plan(["1g.10gb+me", "9GiB"], profiles)) == ["1g.10gb+me", "1g.10gb"]
    assert names(mig.plan(["100GiB"], profiles_of("H200"))) == ["7g.141gb"]


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        (["9GiB"] * 8, "no partition of this GPU holds"),
        (["4g.40gb", "4g.40gb"], "no partition"),
        (["100GiB"], "no profile of this GPU has 100GiB"),
        (["5g.50gb"], "neither a size nor a profile"),
    ],
)
def test_what_does_not_fit_is_refused(requests: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        mig.plan(requests, profiles_of("H100-80"))


@settings(max_examples=150, deadline=None)
@given(gpu=st.sampled_from(sorted(GPUS)), data=st.data())
def test_every_plan_can_be_made(gpu: str, data: st.DataObject) -> None:
    nvml = Nvml(gpu)
    profiles = mig.read_profiles(nvml, None)
    names_of = st.sampled_from([each.name for each in profiles])
    sizes = st.integers(1, max(GPUS[gpu].values()) - 1).map(lambda gib: f"{gib}GiB")
    requests = data.draw(st.lists(st.one_of(names_of, sizes), min_size=1, max_size=8))
    try:
        parts = mig.plan(requests, profiles)
    except UsageError:
        return
    assert [part.request for part in parts] == requests
    assert sum(part.profile.slices for part in parts) <= 7
    mig.apply(nvml, None, parts, profiles)  # the stand-in refuses overlaps and wrong places
    assert len(nvml.made) == len(parts)
    assert all(len(made[3]) == 1 for made in nvml.made.values())
    assert mig.clear(nvml, None, profiles) == len(parts)
    assert not nvml.made


def test_nothing_is_changed_on_a_gpu_in_use_or_out_of_mig_mode_or_partitioned() -> None:
    busy, off, partitioned = Nvml("H100-80", busy=(7, 3)), Nvml("H100-80", mode=0), Nvml("H100-80")
    profiles = profiles_of("H100-80")
    parts = mig.plan(["9GiB"], profiles)
    mig.apply(partitioned, None, parts, profiles)
    for nvml, words in (
        (busy, "in use by process 3, 7"),
        (off, "not in MIG mode"),
        (partitioned, "partitioned already"),
    ):
        before = dict(nvml.made)
        with pytest.raises(UsageError, match=words):
            mig.apply(nvml, None, parts, profiles)
        assert nvml.made == before
    with pytest.raises(UsageError, match="in use"):
        mig.clear(busy, None, profiles)
