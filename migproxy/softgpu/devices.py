"""Devices: what they are, and what they say about each other."""

from __future__ import annotations

from migproxy.softgpu import card
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu.state import DriverBase, entry, entry_before_init, need

_strings: dict[int, tuple[raw.CString, raw.CString]] = {}


class DeviceApi(DriverBase):
    """``cuInit``, ``cuDriverGetVersion``, ``cuDevice*`` without contexts and pools, ``cuGetError*``."""

    @entry_before_init
    def cuInit(self, Flags: int) -> None:
        need(Flags == 0, f"flags {Flags}")
        self.initialised = True

    @entry_before_init
    def cuDriverGetVersion(self, driverVersion: int) -> None:
        need(driverVersion)
        raw.write_i32(driverVersion, self.spec.driver_version)

    @entry_before_init
    def cuGetErrorName(self, error: int, pStr: int) -> None:
        need(pStr)
        raw.write_u64(pStr, _error_strings(error)[0])
        need(error in status.ERRORS, f"{error} is no CUresult")

    @entry_before_init
    def cuGetErrorString(self, error: int, pStr: int) -> None:
        need(pStr)
        raw.write_u64(pStr, _error_strings(error)[1])
        need(error in status.ERRORS, f"{error} is no CUresult")

    @entry
    def cuDeviceGetCount(self, count: int) -> None:
        need(count)
        raw.write_i32(count, len(self.devices))

    @entry
    def cuDeviceGet(self, device: int, ordinal: int) -> None:
        need(device)
        raw.write_i32(device, self.device(ordinal).ordinal)

    @entry
    def cuDeviceGetName(self, name: int, len: int, dev: int) -> None:
        need(name and len > 0)
        _write_string(name, len, self.device(dev).name)

    @entry
    def cuDeviceGetUuid(self, uuid: int, dev: int) -> None:
        need(uuid)
        raw.write_bytes(uuid, card.device_uuid(self.device(dev).ordinal))

    @entry
    def cuDeviceGetUuid_v2(self, uuid: int, dev: int) -> None:
        need(uuid)
        raw.write_bytes(uuid, card.device_uuid(self.device(dev).ordinal))

    @entry
    def cuDeviceGetLuid(self, luid: int, deviceNodeMask: int, dev: int) -> None:
        self.device(dev)
        need(False, "LUIDs are Windows'", status.NOT_SUPPORTED)

    @entry
    def cuDeviceTotalMem(self, bytes: int, dev: int) -> None:
        need(bytes)
        raw.write_u64(bytes, self.device(dev).total)

    @entry
    def cuDeviceGetAttribute(self, pi: int, attrib: int, dev: int) -> None:
        device = self.device(dev)
        need(pi and attrib in device.attributes, f"device attribute {attrib}")
        raw.write_i32(pi, device.attributes[attrib])

    @entry
    def cuDeviceComputeCapability(self, major: int, minor: int, dev: int) -> None:
        need(major and minor)
        raw.write_i32(major, self.device(dev).spec.capability[0])
        raw.write_i32(minor, self.device(dev).spec.capability[1])

    @entry
    def cuDeviceGetProperties(self, prop: int, dev: int) -> None:
        attributes = self.device(dev).attributes
        need(prop)
        order = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
        for index, attribute in enumerate(order):
            raw.write_i32(prop + 4 * index, attributes[attribute])

    @entry
    def cuDeviceGetPCIBusId(self, pciBusId: int, len: int, dev: int) -> None:
        need(pciBusId and len > 0)
        _write_string(pciBusId, len, card.pci_bus_id(self.device(dev).ordinal))

    @entry
    def cuDeviceGetByPCIBusId(self, dev: int, pciBusId: int) -> None:
        need(dev and pciBusId)
        wanted = raw.read_string(pciBusId).decode("ascii", "replace").upper()
        for device in self.devices:
            full = card.pci_bus_id(device.ordinal)
            if wanted in (full, full.removesuffix(".0")):
                raw.write_i32(dev, device.ordinal)
                return
        need(False, f"no device at {wanted}", status.INVALID_DEVICE)

    @entry
    def cuDeviceCanAccessPeer(self, canAccessPeer: int, dev: int, peerDev: int) -> None:
        need(canAccessPeer)
        raw.write_i32(canAccessPeer, int(self.device(dev) is not self.device(peerDev)))

    @entry
    def cuDeviceGetP2PAttribute(self, value: int, attrib: int, srcDevice: int, dstDevice: int) -> None:
        need(value and attrib in (1, 2, 3, 4, 5), f"peer attribute {attrib}")
        need(self.device(srcDevice) is not self.device(dstDevice), "one device", status.INVALID_DEVICE)
        # Performance rank 0 is the best; the rest are yes, for it is all one memory.
        raw.write_i32(value, 0 if attrib == 1 else 1)

    @entry
    def cuDeviceGetExecAffinitySupport(self, pi: int, type: int, dev: int) -> None:
        self.device(dev)
        need(pi)
        raw.write_i32(pi, 0)

    @entry
    def cuDeviceGetTexture1DLinearMaxWidth(
        self, maxWidthInElements: int, format: int, numChannels: int, dev: int
    ) -> None:
        need(maxWidthInElements and numChannels in (1, 2, 4))
        raw.write_u64(maxWidthInElements, self.device(dev).attributes[69] // numChannels)

    @entry
    def cuProfilerStart(self) -> None:
        self.context()

    @entry
    def cuProfilerStop(self) -> None:
        self.context()


def _error_strings(error: int) -> tuple[int, int]:
    """Addresses of an error's name and text; (0, 0) for a number that is no error."""
    if error not in status.ERRORS:
        return 0, 0
    if error not in _strings:
        name, text = status.ERRORS[error]
        _strings[error] = raw.CString(name), raw.CString(text)
    return _strings[error][0].address, _strings[error][1].address


def _write_string(address: int, length: int, text: str) -> None:
    """Write as much of a string as fits, always with its closing NUL."""
    raw.write_bytes(address, text.encode()[: length - 1] + b"\0")
