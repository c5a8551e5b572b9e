"""The findings of ``migproxy doctor``."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from migproxy import __version__
from migproxy.abi.protocol import PROTOCOL_VERSION
from migproxy.abi.support import PYTHON_LAST, PYTHON_LEAST, SUPPORTED
from migproxy.cli.control import BrokerClient
from migproxy.cli.function_environment import pth_installed
from migproxy.cli.isolation import gpu_nodes, landlock_version
from migproxy.device.inventory import DriverBroken, Inventory, read_inventory, software_slice
from migproxy.errors import UsageError
from migproxy.session.connect import find_broker
from migproxy.sizes import format_size
from migproxy.versions import describe_range, in_range


@dataclass(frozen=True)
class Finding:
    """One line: `verdict` is ``ok``, ``note`` or ``bad``."""

    topic: str
    verdict: str
    text: str


def diagnose(read: Callable[[], Inventory] = read_inventory) -> list[Finding]:
    """Look at everything that decides whether and where functions run."""
    findings = [*_python(), *_libraries()]
    inventory: Inventory | None = None
    broken = ""
    try:
        inventory = read()
    except DriverBroken as error:
        broken = str(error)
    findings += _devices(inventory, broken)
    findings += _limits()
    findings += _isolation()
    findings += _where(inventory, broken)
    return findings


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    fits = PYTHON_LEAST <= sys.version_info[:2] <= PYTHON_LAST and platform.python_implementation() == "CPython"
    span = f"{PYTHON_LEAST[0]}.{PYTHON_LEAST[1]} to {PYTHON_LAST[0]}.{PYTHON_LAST[1]}"
    text = f"{platform.python_implementation()} {version}" + ("" if fits else f"; needed: CPython {span}")
    yield Finding("Python", "ok" if fits else "bad", text)
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    yield Finding("system", "ok" if linux else "bad", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Finding("migproxy", "ok", f"{__version__}, protocol {PROTOCOL_VERSION}")
    if pth_installed():
        yield Finding("interposition", "ok", "migproxy.pth is installed")
    else:
        yield Finding("interposition", "note", "migproxy.pth is not installed: a sitecustomize does its work")


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _libraries() -> Iterator[Finding]:
    for supported in SUPPORTED:
        version = _installed(supported.distribution)
        if not version:
            yield Finding(supported.distribution, "note", f"not installed (works: {describe_range(supported)})")
        elif in_range(supported, version):
            yield Finding(supported.distribution, "ok", version)
        else:
            text = f"{version} is not supported ({supported.why}); works: {describe_range(supported)}"
            yield Finding(supported.distribution, "bad", text)
    for distribution in ("llvmlite", "msgspec", "scipy", "nvidia-ml-py"):
        version = _installed(distribution)
        yield Finding(distribution, "ok" if version else "bad", version or "not installed, and needed")


def _devices(inventory: Inventory | None, broken: str) -> Iterator[Finding]:
    if inventory is None:
        yield Finding("NVIDIA driver", "bad", broken)
        return
    if not inventory.driver:
        yield Finding("NVIDIA driver", "note", "none")
    else:
        yield Finding("NVIDIA driver", "ok", inventory.driver)
    for parent in inventory.mig_parents:
        yield Finding(parent, "note", "in MIG mode: its instances are the devices")
    for each in inventory.slices:
        capability = ".".join(str(part) for part in each.compute_capability)
        profile = f", profile {each.profile}" if each.profile else ""
        text = f"{each.device_name}, {format_size(each.memory)}, compute capability {capability}{profile}, {each.uuid}"
        yield Finding(each.name, "ok", text)
    yield Finding("software GPU", "ok", f"{format_size(software_slice().memory)} unless a broker is told otherwise")


def _limits() -> Iterator[Finding]:
    try:
        fd = os.memfd_create("migproxy-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.close(fd)
        free = format_size(shutil.disk_usage("/dev/shm").free)
        yield Finding("shared memory", "ok", f"memfd works; /dev/shm has {free} free")
    except OSError as error:
        yield Finding("shared memory", "bad", f"memfd_create with seals fails: {error.strerror}")
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    text = f"RLIMIT_MEMLOCK {_limit(soft)} (at most {_limit(hard)}); the NVIDIA driver pins arenas itself"
    yield Finding("locked memory", "ok", text)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("open files", "ok" if hard >= 1024 else "bad", f"RLIMIT_NOFILE {soft} (at most {hard})")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        text = f"RLIMIT_AS is {_limit(soft)}: sessions reserve address windows; set it to unlimited"
        yield Finding("address space", "bad", text)
    if not hasattr(os, "pidfd_open"):
        yield Finding("pidfd", "bad", "pidfd_open is missing: Linux 5.3 or newer is needed")


def _isolation() -> Iterator[Finding]:
    version, nodes = landlock_version(), gpu_nodes()
    if version:
        yield Finding("isolation", "ok", f"functions are kept off /dev/nvidia* by Landlock (ABI {version})")
    elif nodes:
        text = "this kernel has no Landlock: a function can open the GPU itself; run --require-isolation refuses"
        yield Finding("isolation", "note", text)
    else:
        yield Finding("isolation", "ok", "there is no GPU that a function could open")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else format_size(value)


def _where(inventory: Inventory | None, broken: str) -> Iterator[Finding]:
    try:
        path = find_broker()
    except UsageError as error:
        yield Finding("broker", "bad", str(error))
        return
    if path:
        client = BrokerClient(path)
        try:
            status = client.status()
        except UsageError as error:
            yield Finding("broker", "bad", str(error))
            return
        finally:
            client.close()
        served = ", ".join(
            f"{each.name} ({format_size(each.capacity - each.reserved)} of {format_size(each.capacity)} free)"
            for each in status.slices
        )
        yield Finding("broker", "ok", f"{path}, version {status.version}, serves {served}")
        yield Finding("migproxy run", "ok", f"goes to that broker: {served}")
        return
    yield Finding("broker", "note", "none runs; migproxy run starts a private one")
    if broken:
        yield Finding("migproxy run", "bad", "device auto is refused: the driver is broken; --device software works")
    elif inventory is not None and inventory.slices:
        yield Finding("migproxy run", "ok", "device auto is " + ", ".join(each.name for each in inventory.slices))
    elif inventory is not None and inventory.driver:
        yield Finding("migproxy run", "bad", "a driver is installed but there is no GPU; --device software works")
    else:
        yield Finding("migproxy run", "ok", "device auto is the software GPU")
