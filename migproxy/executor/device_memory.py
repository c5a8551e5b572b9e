"""The executor's side of device memory: maps chunks at the addresses the function chose, and holds the quota.

What counts is kept here: bytes mapped, and other bytes (context, modules, libraries) as the driver's free memory
shows them.
"""

from __future__ import annotations

import bisect
import ctypes
import struct
from typing import TYPE_CHECKING

from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.arena.account import QuotaAccount
from migproxy.errors import CudaError
from migproxy.executor.driver import AnyDriver

if TYPE_CHECKING:
    from migproxy.executor.pump_tables import PumpTables

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_OUT_OF_MEMORY = 2

# CUmemAllocationProp: type pinned, no exportable handle, location device 0; no compression, no RDMA
_PROPERTIES = struct.pack("<iiiiQ8x", 1, 0, 1, 0, 0)
# CUmemAccessDesc: location device 0, read and write
_ACCESS = struct.pack("<iii", 1, 0, 3)


class DeviceMemory:
    """The session's device window.

    Parameters
    ----------
    driver : AnyDriver
    base, size : int
        The reserved window.
    quota : int
        Bytes in all.
    mirror : PumpTables, optional
        Is told of every change, for the hot path.
    account : QuotaAccount, optional
        The function's, which its other sessions share.
    """

    def __init__(
        self,
        driver: AnyDriver,
        base: int,
        size: int,
        quota: int,
        mirror: PumpTables | None = None,
        account: QuotaAccount | None = None,
    ) -> None:
        self._account = account
        self._mirror = mirror
        self._driver = driver
        self.base = base
        self.size = size
        self.quota = quota
        self.other_bytes = 0
        self.mapped_bytes = 0
        self.peak_bytes = 0
        self._chunks: dict[int, tuple[int, int]] = {}
        self._starts: list[int] = []
        self._foreign: dict[int, int] = {}
        self._properties = ctypes.create_string_buffer(_PROPERTIES)
        self._access = ctypes.create_string_buffer(_ACCESS)

    def charge_other(self, size: int) -> None:
        """Charge `size` bytes that the driver took besides the chunks (negative: gave back)."""
        self.other_bytes = max(0, self.other_bytes + size)
        self.peak_bytes = max(self.peak_bytes, self.mapped_bytes + self.other_bytes)
        self._settle()

    def set_other(self, size: int) -> None:
        """Charge `size` bytes in all for what the driver took besides the chunks: a measurement, not a difference."""
        self.charge_other(size - self.other_bytes)

    def has_room(self, size: int) -> bool:
        """Tell whether the function's quota has room for `size` more bytes."""
        others = self._account.others() if self._account is not None else 0
        return self.mapped_bytes + self.other_bytes + size + others <= self.quota

    def _charge(self, size: int) -> bool:
        """Charge `size` more bytes to the function, if its quota allows it."""
        if self._account is None:
            return self.has_room(size)
        return self._account.charge(self.mapped_bytes + self.other_bytes + size)

    def _settle(self) -> None:
        if self._account is not None:
            self._account.settle(self.mapped_bytes + self.other_bytes)

    def map(self, address: int, size: int) -> None:
        """Map fresh memory at [address, address + size).

        Raises
        ------
        CudaError
            1 for a range that is misaligned, outside the window or mapped already; 2 beyond the quota.
        """
        inside = self.base <= address and address + size <= self.base + self.size
        if (
            size <= 0
            or address % DEVICE_GRANULE
            or size % DEVICE_GRANULE
            or not inside
            or self._overlaps(address, size)
        ):
            raise CudaError(CUDA_ERROR_INVALID_VALUE, f"cannot map {size} bytes at {address:#x}")
        if not self._charge(size):
            raise CudaError(CUDA_ERROR_OUT_OF_MEMORY, "beyond the quota")
        driver = self._driver
        handle = 0
        try:
            handle = driver.out("cuMemCreate", size, ctypes.addressof(self._properties), 0)
            driver.call("cuMemMap", address, size, 0, handle, 0)
            driver.call("cuMemSetAccess", address, size, ctypes.addressof(self._access), 1)
        except CudaError:
            if handle:
                driver.status("cuMemUnmap", address, size)
                driver.status("cuMemRelease", handle)
            self._settle()
            raise
        self._chunks[address] = (size, handle)
        bisect.insort(self._starts, address)
        self.mapped_bytes += size
        if self._mirror is not None:
            self._mirror.map(address, size, True)
        self.peak_bytes = max(self.peak_bytes, self.mapped_bytes + self.other_bytes)

    def unmap(self, address: int, size: int) -> None:
        """Unmap one chunk; nothing submitted may still use it.

        Raises
        ------
        CudaError
            1 when [address, address + size) is not a chunk.
        """
        chunk = self._chunks.get(address)
        if chunk is None or chunk[0] != size:
            raise CudaError(CUDA_ERROR_INVALID_VALUE, f"no chunk of {size} bytes at {address:#x}")
        self._driver.call("cuMemUnmap", address, size)
        self._driver.call("cuMemRelease", chunk[1])
        del self._chunks[address]
        del self._starts[bisect.bisect_left(self._starts, address)]
        self.mapped_bytes -= size
        self._settle()
        if self._mirror is not None:
            self._mirror.map(address, size, False)

    def _overlaps(self, address: int, size: int) -> bool:
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0 and self._starts[index] + self._chunks[self._starts[index]][0] > address:
            return True
        return index + 1 < len(self._starts) and self._starts[index + 1] < address + size

    def adopt(self, base: int, size: int) -> None:
        """Count memory the driver placed (module globals, …) as the session's."""
        self._foreign[base] = size

    def disown(self, base: int) -> None:
        """Undo `adopt`."""
        self._foreign.pop(base, None)

    def check_range(self, address: int, size: int) -> None:
        """Raise CUDA_ERROR_INVALID_VALUE unless the range is the session's mapped memory."""
        end = address + size
        position = address
        while position < end:
            index = bisect.bisect_right(self._starts, position) - 1
            if index < 0:
                break
            start = self._starts[index]
            stop = start + self._chunks[start][0]
            if position >= stop:
                break
            position = stop
        if position >= end and size >= 0:
            return
        for base, length in self._foreign.items():
            if base <= address and end <= base + length:
                return
        raise CudaError(CUDA_ERROR_INVALID_VALUE, f"{size} bytes at {address:#x} are not this session's memory")

    def release_all(self) -> None:
        """Unmap everything at the end of the session."""
        for address, (size, _) in list(self._chunks.items()):
            self.unmap(address, size)
