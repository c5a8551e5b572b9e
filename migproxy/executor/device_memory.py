"""The executor's side of device memory: maps chunks at the addresses the function chose, and holds the quota.

What counts is kept here: bytes mapped, and other bytes (context, modules, libraries) as the driver's free memory
shows them.
"""

from __future__ import annotations

import bisect
import ctypes
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from migproxy.abi.protocol import DEVICE_GRANULE
from migproxy.arena import packets
from migproxy.arena.account import QuotaAccount
from migproxy.errors import CudaError
from migproxy.executor.driver import AnyDriver

if TYPE_CHECKING:
    from migproxy.executor.pump_tables import PumpTables

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_OUT_OF_MEMORY = 2
CUDA_ERROR_MAP_FAILED = 205
CUDA_ERROR_NOT_SUPPORTED = 801

# CUmemAllocationProp: type pinned, handle type, location device 0; no compression, no RDMA
_PROPERTIES = struct.Struct("<iiiiQ8x")
#: CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR: memory can be shared with other sessions.
_POSIX_FILE = 1
#: What a driver says that cannot make such memory: NOT_PERMITTED, NOT_SUPPORTED.
_NO_SUCH_HANDLES = (800, CUDA_ERROR_NOT_SUPPORTED)
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
        self.taken_bytes = 0
        self.peak_bytes = 0
        self._chunks: dict[int, tuple[int, int]] = {}
        self._starts: list[int] = []
        self._foreign: dict[int, int] = {}
        self._taken: dict[int, list[int]] = {}  # start of another session's memory → its chunks
        self._taken_chunks: set[int] = set()
        self._handle_type = _POSIX_FILE
        self._properties = ctypes.create_string_buffer(_PROPERTIES.pack(1, _POSIX_FILE, 1, 0, 0))
        self._access = ctypes.create_string_buffer(_ACCESS)

    def charge_other(self, size: int) -> None:
        """Charge `size` bytes that the driver took besides the chunks (negative: gave back)."""
        self.other_bytes = max(0, self.other_bytes + size)
        self._note_peak()
        self._settle()

    def set_other(self, size: int) -> None:
        """Charge `size` bytes in all for what the driver took besides the chunks: a measurement, not a difference."""
        self.charge_other(size - self.other_bytes)

    def has_room(self, size: int) -> bool:
        """Tell whether the function's quota has room for `size` more bytes."""
        others = self._account.others() if self._account is not None else 0
        return self.used_bytes + size + others <= self.quota

    def _charge(self, size: int) -> bool:
        """Charge `size` more bytes to the function, if its quota allows it."""
        if self._account is None:
            return self.has_room(size)
        return self._account.charge(self.used_bytes + size)

    def _settle(self) -> None:
        if self._account is not None:
            self._account.settle(self.used_bytes)

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    @property
    def used_bytes(self) -> int:
        """All that is charged to the session: chunks, what it took of other sessions, and what the driver took."""
        return self.mapped_bytes + self.taken_bytes + self.other_bytes

    def _create(self, size: int) -> int:
        """Make memory that can be shared, or plain memory where the driver cannot make such."""
        try:
            return self._driver.out("cuMemCreate", size, ctypes.addressof(self._properties), 0)
        except CudaError as error:
            if not self._handle_type or error.status not in _NO_SUCH_HANDLES:
                raise
        self._handle_type = 0
        self._properties.raw = _PROPERTIES.pack(1, 0, 1, 0, 0)
        return self._driver.out("cuMemCreate", size, ctypes.addressof(self._properties), 0)

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
            handle = self._create(size)
            driver.call("cuMemMap", address, size, 0, handle, 0)
            driver.call("cuMemSetAccess", address, size, ctypes.addressof(self._access), 1)
        except CudaError:
            if handle:
                driver.status("cuMemUnmap", address, size)
                driver.status("cuMemRelease", handle)
            self._settle()
            raise
        self._enter(address, size, handle)
        self.mapped_bytes += size
        self._note_peak()

    def _enter(self, address: int, size: int, handle: int) -> None:
        self._chunks[address] = (size, handle)
        bisect.insort(self._starts, address)
        if self._mirror is not None:
            self._mirror.map(address, size, True)

    def unmap(self, address: int, size: int) -> None:
        """Unmap one chunk; nothing submitted may still use it.

        Raises
        ------
        CudaError
            1 when [address, address + size) is not a chunk.
        """
        chunk = self._chunks.get(address)
        if chunk is None or chunk[0] != size or address in self._taken_chunks:
            raise CudaError(CUDA_ERROR_INVALID_VALUE, f"no chunk of {size} bytes at {address:#x}")
        self._unmap(address)
        self.mapped_bytes -= size
        self._settle()

    def _unmap(self, address: int) -> None:
        size, handle = self._chunks[address]
        self._driver.call("cuMemUnmap", address, size)
        self._driver.call("cuMemRelease", handle)
        del self._chunks[address]
        del self._starts[bisect.bisect_left(self._starts, address)]
        if self._mirror is not None:
            self._mirror.map(address, size, False)

    # -- sharing with other sessions ---------------------------------------------------------------------------------
    def pieces(self, base: int, size: int) -> list[tuple[int, int]]:
        """Return address and size of the chunks that hold an allocation; they adjoin.

        Raises
        ------
        CudaError
            1 unless all of it is memory that this session mapped itself.
        """
        found = []
        position, end = base, base + size
        while size > 0 and position < end:
            index = bisect.bisect_right(self._starts, position) - 1
            start = self._starts[index] if index >= 0 else 0
            if not start or start in self._taken_chunks or position >= start + self._chunks[start][0]:
                break
            found.append((start, self._chunks[start][0]))
            position = start + self._chunks[start][0]
        if size <= 0 or position < end:
            raise CudaError(CUDA_ERROR_INVALID_VALUE, f"{size} bytes at {base:#x} are not this session's own memory")
        return found

    def export(self, pieces: Sequence[tuple[int, int]]) -> list[int]:
        """Return a descriptor of each chunk's memory; the caller closes them.

        Raises
        ------
        CudaError
            801 where memory cannot be shared, 600 while the software GPU runs something.
        """
        if not self._handle_type:
            raise CudaError(CUDA_ERROR_NOT_SUPPORTED, "this driver cannot make memory that can be shared")
        fds: list[int] = []
        value = ctypes.c_int(-1)
        try:
            for address, _ in pieces:
                handle = self._chunks[address][1]
                self._driver.call("cuMemExportToShareableHandle", ctypes.addressof(value), handle, _POSIX_FILE, 0)
                fds.append(value.value)
        except CudaError:
            packets.close_all(fds)
            raise
        return fds

    def import_pieces(self, sizes: Sequence[int], fds: Sequence[int]) -> int:
        """Map another session's memory, piece by piece, where there is room in the upper half; returns its address.

        The whole of it is charged to this session: it lives on here when the other one has freed it.

        Raises
        ------
        CudaError
            2 beyond the quota, 205 when there is no room, else the driver's.
        """
        total = sum(sizes)
        if len(sizes) != len(fds) or not sizes:
            raise CudaError(CUDA_ERROR_INVALID_VALUE, "pieces without descriptors")
        start = self._room(total)
        if not self._charge(total):
            raise CudaError(CUDA_ERROR_OUT_OF_MEMORY, "beyond the quota")
        driver, address = self._driver, start
        done: list[int] = []
        try:
            for size, fd in zip(sizes, fds, strict=True):
                handle = driver.out("cuMemImportFromShareableHandle", fd, _POSIX_FILE)
                try:
                    driver.call("cuMemMap", address, size, 0, handle, 0)
                except CudaError:
                    driver.status("cuMemRelease", handle)
                    raise
                self._enter(address, size, handle)
                self._taken_chunks.add(address)
                done.append(address)
                driver.call("cuMemSetAccess", address, size, ctypes.addressof(self._access), 1)
                address += size
        except CudaError:
            self._drop_taken(done)
            self._settle()
            raise
        self._taken[start] = done
        self.taken_bytes += total
        self._note_peak()
        return start

    def _room(self, size: int) -> int:
        """Return the first free address in the half of the window that the function does not place."""
        address, end = self.base + self.size // 2, self.base + self.size
        for start in self._starts[bisect.bisect_left(self._starts, address) :]:
            if start - address >= size:
                break
            address = start + self._chunks[start][0]
        if address + size > end or self._overlaps(address, size):
            raise CudaError(CUDA_ERROR_MAP_FAILED, f"no room for {size} bytes of another session")
        return address

    def release_pieces(self, start: int) -> None:
        """Unmap what `import_pieces` mapped at `start`; nothing submitted may still use it."""
        chunks = self._taken.pop(start)
        self.taken_bytes -= sum(self._chunks[chunk][0] for chunk in chunks)
        self._drop_taken(chunks)
        self._settle()

    def _drop_taken(self, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            self._unmap(chunk)
            self._taken_chunks.discard(chunk)

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
        for start in list(self._taken):
            self.release_pieces(start)
        for address, (size, _) in list(self._chunks.items()):
            self.unmap(address, size)
