"""Devices: a function sees exactly one, its slice; every query is answered from the facts that came with the
session."""

from __future__ import annotations

from migproxy.abi.control import DeviceFacts
from migproxy.errors import CudaError
from migproxy.session.session import current

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_INVALID_DEVICE = 101


def device_facts() -> DeviceFacts:
    """Return what this session knows of its slice."""
    return current().facts


def driver_version() -> int:
    """Return the executor's driver version, e.g. 13000."""
    return current().facts.driver_version


def device_count() -> int:
    """Return 1: the session's slice."""
    current()
    return 1


def _check(device: int) -> DeviceFacts:
    if device != 0:
        raise CudaError(CUDA_ERROR_INVALID_DEVICE)
    return current().facts


def device_attribute(attribute: int, device: int = 0) -> int:
    """Return a ``CUdevice_attribute``.

    Raises
    ------
    CudaError
        101 for another device than 0, 1 for an attribute the driver does not know.
    """
    facts = _check(device)
    try:
        return facts.attributes[attribute]
    except KeyError:
        raise CudaError(CUDA_ERROR_INVALID_VALUE, f"device attribute {attribute}") from None


def device_name(device: int = 0) -> str:
    """Return the device's name."""
    return _check(device).name


def device_uuid(device: int = 0) -> bytes:
    """Return the device's 16-byte UUID."""
    return _check(device).uuid


def device_total_memory(device: int = 0) -> int:
    """Return the function's quota in bytes: all the memory there is for it."""
    return _check(device).total_memory


def device_pci_bus_id(device: int = 0) -> str:
    """Return the PCI bus id, e.g. ``"0000:00:07.0"``."""
    return _check(device).pci_bus_id


def compute_capability(device: int = 0) -> tuple[int, int]:
    """Return (major, minor)."""
    return _check(device).compute_capability
