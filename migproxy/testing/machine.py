"""What figures depend on: the device, the machine, the versions. Imports no GPU library."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

LIBRARIES = (
    *("migproxy", "numpy", "scipy", "cupy-cuda12x", "cupy-cuda13x", "numba", "numba-cuda", "cuda-bindings"),
    *("cuda-core", "pytest", "pytest-benchmark"),
)
SOFTWARE = "software GPU"


def device_name() -> str:
    """Return the name and driver of the GPU that native runs use here; `SOFTWARE` if there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return SOFTWARE
    return said or SOFTWARE


def processor() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def machine(gpu: str = "") -> dict[str, Any]:
    """Return device, processor, versions.

    Parameters
    ----------
    gpu : str
        The device that the figures are of, where the caller knows it better than `device_name`.
    """
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "gpu": gpu or device_name(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "versions": versions,
    }


def is_software(gpu: str) -> bool:
    """Return whether a record's device is a software GPU."""
    return gpu.startswith(SOFTWARE)


def label(gpu: str) -> str:
    """Return a device as every table and figure names it."""
    return f"{gpu} (figures of a software GPU say nothing about a real one)" if is_software(gpu) else gpu
