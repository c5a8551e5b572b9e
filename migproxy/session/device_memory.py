"""The function's ledger of device memory: places allocations, decides out-of-memory in the call, and maps granules
on demand.

Addresses are real device addresses inside the session's device window; the lower half is placed here, the upper half by
the executor. Memory is mapped in chunks of whole granules when the first allocation touches them, and unmapped, a
chunk at a
time, when its last allocation is gone and nothing submitted before the free can still use it. The executor checks every
mapping against the quota again; its word counts.
"""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING

from migproxy.abi import layout
from migproxy.abi.ops import Op
from migproxy.abi.protocol import DEVICE_ALIGN, DEVICE_GRANULE
from migproxy.arena.account import QuotaAccount
from migproxy.errors import CudaError
from migproxy.session.stream_bins import StreamBins

if TYPE_CHECKING:
    from migproxy.session.session import Session

CUDA_ERROR_INVALID_VALUE = 1
CUDA_ERROR_OUT_OF_MEMORY = 2
CUDA_ERROR_NOT_INITIALIZED = 3
#: Chunks end at multiples of this, so that a large allocation can be unmapped in parts: the driver unmaps only what
#: it mapped.
CHUNK_SPAN = 32 << 20
#: Mapped chunks without allocations that are kept, so that code which allocates and frees in turn maps nothing.
KEEP_MAPPED = 64 << 20


class DeviceMemory:
    """Allocator over a window of device addresses.

    Parameters
    ----------
    session : Session
        Commands go through it.
    base, size : int
        The part of the device window that the function places.
    quota : int
        Bytes of device memory the function may use in all.
    account : QuotaAccount, optional
        What the function's other sessions use of the quota.
    tells : bool
        The device wants to know every allocation: the software GPU in check mode.
    """

    def __init__(
        self, session: Session, base: int, size: int, quota: int, account: QuotaAccount | None = None, *,
        tells: bool = False,
    ) -> None:  # fmt: skip
        self._account = account
        self._tells = tells
        self.lock = threading.RLock()
        self._session = session
        self.base = base
        self.end = base + size
        self.quota = quota
        self._free_starts = [base]
        self._free_sizes = {base: size}
        self._sizes: dict[int, int] = {}
        self._starts: list[int] = []
        self._foreign: dict[int, int] = {}
        self._shared: set[int] = set()
        self._chunk_of: dict[int, int] = {}  # granule number → start of its chunk
        self._chunk_sizes: dict[int, int] = {}
        self._chunk_users: dict[int, int] = {}
        self._mapped_bytes = 0
        self._used_bytes = 0
        self._quarantine: deque[tuple[int, int, int]] = deque()
        self._frees = 0
        self._bins = StreamBins()

    # -- queries ---------------------------------------------------------------------------------------------------
    @property
    def used(self) -> int:
        """Bytes charged to the quota, chunks kept in reserve left out."""
        return self._used_bytes + self._session.ring.other_bytes()

    def info(self) -> tuple[int, int]:
        """Return (free, total) in bytes, as ``cuMemGetInfo`` does."""
        with self.lock:
            self._empty_bins()
            if self._quarantine:
                # As natively, where a free waits for the device.
                self._session.ring.wait_frees_retired(self._quarantine[-1][0])
            self._drain()
            return max(0, self.limit - self.used), self.quota

    @property
    def limit(self) -> int:
        """The quota less what the function's other sessions use."""
        return self.quota - self._account.others() if self._account is not None else self.quota

    def find(self, pointer: int) -> tuple[int, int] | None:
        """Return (base, size) of the allocation that holds `pointer`."""
        with self.lock:
            index = bisect.bisect_right(self._starts, pointer) - 1
            if index >= 0:
                start = self._starts[index]
                size = self._sizes[start]
                if pointer < start + size:
                    return start, size
            for start, size in self._foreign.items():
                if start <= pointer < start + size:
                    return start, size
        return None

    def note_shared(self, base: int) -> None:
        """An allocation is open to other sessions until it is freed."""
        with self.lock:
            self._shared.add(base)

    def own_range(self, pointer: int) -> tuple[int, int]:
        """Return (base, size) of the allocation of this session that holds `pointer`.

        Raises
        ------
        CudaError
            1 for anything else, also for memory that others placed; 3 for what a forked child inherited.
        """
        found = self.find(pointer)
        if found is None or found[0] not in self._sizes:
            status = CUDA_ERROR_NOT_INITIALIZED if self._session.is_inherited(pointer) else CUDA_ERROR_INVALID_VALUE
            raise CudaError(status, f"{pointer:#x} is not memory that this session allocated")
        return found

    def make_room(self) -> None:
        """Give back what is mapped but not allocated: the executor needs the quota for something else."""
        with self.lock:
            self._empty_bins()
            if self._quarantine:
                self._wait_for_frees()
            self._unmap_spare(0)

    def adopt(self, base: int, size: int) -> None:
        """Note memory that the executor or the driver placed (module globals, …)."""
        with self.lock:
            self._foreign[base] = size
            self._session.ring.note_foreign(len(self._foreign))

    def disown(self, base: int) -> None:
        """Forget memory noted by `adopt`."""
        with self.lock:
            self._foreign.pop(base, None)
            self._session.ring.note_foreign(len(self._foreign))
            self._session.ring.forget_range(base)

    def check_range(self, pointer: int, size: int) -> None:
        """Raise CUDA_ERROR_INVALID_VALUE unless [pointer, pointer + size) lies inside one allocation."""
        found = self.find(pointer)
        if found is None or pointer + size > found[0] + found[1]:
            status = CUDA_ERROR_NOT_INITIALIZED if self._session.is_inherited(pointer) else CUDA_ERROR_INVALID_VALUE
            raise CudaError(status, f"{size} bytes at {pointer:#x} are not this session's memory")
        self._session.ring.note_range(pointer, *found)

    # -- allocation ------------------------------------------------------------------------------------------------
    def allocate(self, size: int) -> int:
        """Allocate `size` bytes; returns their device address.

        Raises
        ------
        CudaError
            1 for a size of 0, 2 when the quota does not allow it.
        """
        if size <= 0:
            raise CudaError(CUDA_ERROR_INVALID_VALUE)
        rounded = _rounded(size)
        with self.lock:
            self._drain()
            address = self._try_place(rounded)
            if address is None:
                self._empty_bins()
            if address is None and self._quarantine:
                # Natively a free has waited for the work before it by now; so a refusal must not come earlier here.
                self._wait_for_frees()
                address = self._try_place(rounded)
            if address is None:
                raise CudaError(CUDA_ERROR_OUT_OF_MEMORY)
            self._enter(address, size)
            return address

    def allocate_in_order(self, size: int, stream: int) -> int:
        """Allocate memory that is used in the order of a wire stream; as `allocate`."""
        if size > 0:
            with self.lock:
                address = self._bins.take(stream, _rounded(size))
                if address:
                    self._enter(address, size)
                    return address
        return self.allocate(size)

    def free_in_order(self, pointer: int, stream: int) -> None:
        """Free an allocation behind the work of a wire stream; as `free`."""
        with self.lock:
            size = self._sizes.get(pointer)
            if size is None or not self._bins.put(stream, _rounded(size), pointer):
                self.free(pointer)
                return
            self._leave(pointer)

    def end_stream(self, stream: int) -> None:
        """A wire stream is about to be destroyed: what was freed in its order is free behind all work."""
        with self.lock:
            self._empty_bins(stream)

    def free(self, pointer: int) -> None:
        """Free an allocation; a null pointer does nothing.

        Raises
        ------
        CudaError
            1 when `pointer` was not allocated here.
        """
        if pointer == 0:
            return
        with self.lock:
            size = self._sizes.get(pointer)
            if size is None:
                raise CudaError(CUDA_ERROR_INVALID_VALUE, f"{pointer:#x} was not allocated by this session")
            self._leave(pointer)
            self._retire(pointer, _rounded(size))

    # -- internals; all need the lock ------------------------------------------------------------------------------
    def _enter(self, address: int, size: int) -> None:
        """Note an allocation."""
        self._sizes[address] = size
        bisect.insort(self._starts, address)
        if self._tells:
            self._session.post(Op.ALLOCATION, layout.RANGE.pack(address, size))

    def _leave(self, pointer: int) -> None:
        """Forget an allocation."""
        del self._sizes[pointer]
        self._starts.pop(bisect.bisect_left(self._starts, pointer))
        self._session.ring.forget_range(pointer)
        if pointer in self._shared:
            # Before its addresses can be given to anything else.
            self._shared.discard(pointer)
            self._session.post(Op.IPC_WITHDRAW, layout.HANDLE.pack(pointer))
        if self._tells:
            self._session.post(Op.ALLOCATION, layout.RANGE.pack(pointer, 0))

    def _retire(self, address: int, rounded: int) -> None:
        """Have addresses be free once the work submitted so far has retired."""
        self._frees += 1
        self._quarantine.append((self._frees, address, rounded))
        self._session.post(Op.FREE_MARK, b"")

    def _empty_bins(self, stream: int | None = None) -> None:
        for address, rounded in self._bins.clear(stream):
            self._retire(address, rounded)

    def _try_place(self, size: int) -> int | None:
        whole = size >= DEVICE_GRANULE
        align = DEVICE_GRANULE if whole else DEVICE_ALIGN
        best: tuple[int, int, int, int] | None = None  # (new granules, block size, block start, address)
        for start in self._free_starts:
            block = self._free_sizes[start]
            address = (start + align - 1) // align * align
            if not whole and address // DEVICE_GRANULE != (address + size - 1) // DEVICE_GRANULE:
                address = (address + DEVICE_GRANULE - 1) // DEVICE_GRANULE * DEVICE_GRANULE
            if address + size > start + block:
                continue
            first, last = address // DEVICE_GRANULE, (address + size - 1) // DEVICE_GRANULE
            new = sum(1 for granule in range(first, last + 1) if granule not in self._chunk_of)
            candidate = (new, block, start, address)
            if best is None or candidate < best:
                best = candidate
            if new == 0 and (not whole or block == size):
                break
        if best is None:
            return None
        _, block, start, address = best
        if not self._map(address, size):
            return None
        self._cut(start, block, address, size)
        return address

    def _map(self, address: int, size: int) -> bool:
        first, last = address // DEVICE_GRANULE, (address + size - 1) // DEVICE_GRANULE
        missing = [granule for granule in range(first, last + 1) if granule not in self._chunk_of]
        fresh = len(missing) * DEVICE_GRANULE
        present = {self._chunk_of[granule] for granule in range(first, last + 1) if granule in self._chunk_of}
        revived = sum(self._chunk_sizes[chunk] for chunk in present if not self._chunk_users.get(chunk))
        limit = self.limit
        if self.used + fresh + revived > limit:
            return False
        if self._mapped_bytes + fresh + self._session.ring.other_bytes() > limit:
            self._unmap_spare(0, keep=present)
        for run_start, run_end in _runs(missing):
            self._map_run(run_start * DEVICE_GRANULE, run_end * DEVICE_GRANULE)
        for chunk in {self._chunk_of[granule] for granule in range(first, last + 1)}:
            users = self._chunk_users.get(chunk, 0)
            if not users:
                self._used_bytes += self._chunk_sizes[chunk]
            self._chunk_users[chunk] = users + 1
        return True

    def _map_run(self, start: int, end: int) -> None:
        while start < end:
            stop = min(end, (start // CHUNK_SPAN + 1) * CHUNK_SPAN)
            self._session.post(Op.MAP, layout.RANGE.pack(start, stop - start))
            self._chunk_sizes[start] = stop - start
            self._mapped_bytes += stop - start
            for granule in range(start // DEVICE_GRANULE, stop // DEVICE_GRANULE):
                self._chunk_of[granule] = start
            start = stop

    def _cut(self, start: int, block: int, address: int, size: int) -> None:
        index = bisect.bisect_left(self._free_starts, start)
        pieces = []
        if address > start:
            pieces.append((start, address - start))
        if address + size < start + block:
            pieces.append((address + size, start + block - address - size))
        del self._free_sizes[start]
        self._free_starts[index : index + 1] = [piece[0] for piece in pieces]
        self._free_sizes.update(pieces)

    def _drain(self) -> None:
        retired = self._session.ring.frees_retired()
        while self._quarantine and self._quarantine[0][0] <= retired:
            _, address, size = self._quarantine.popleft()
            self._give_back(address, size)

    def _wait_for_frees(self) -> None:
        self._session.call(Op.CONTEXT_SYNC, b"")
        self._session.ring.wait_frees_retired(self._quarantine[-1][0])
        self._drain()

    def _give_back(self, address: int, size: int) -> None:
        first, last = address // DEVICE_GRANULE, (address + size - 1) // DEVICE_GRANULE
        for chunk in {self._chunk_of[granule] for granule in range(first, last + 1)}:
            users = self._chunk_users.pop(chunk) - 1
            if users:
                self._chunk_users[chunk] = users
            else:
                self._used_bytes -= self._chunk_sizes[chunk]
        index = bisect.bisect_left(self._free_starts, address)
        start, end = address, address + size
        if index < len(self._free_starts) and self._free_starts[index] == end:
            end += self._free_sizes.pop(end)
            del self._free_starts[index]
        if index > 0:
            before = self._free_starts[index - 1]
            if before + self._free_sizes[before] == start:
                start = before
                del self._free_starts[index - 1]
                index -= 1
        self._free_starts.insert(index, start)
        self._free_sizes[start] = end - start
        if self._mapped_bytes - self._used_bytes > KEEP_MAPPED:
            self._unmap_spare(KEEP_MAPPED // 2)

    def _unmap_spare(self, leave: int, keep: Collection[int] = ()) -> None:
        for chunk in [chunk for chunk in self._chunk_sizes if chunk not in self._chunk_users and chunk not in keep]:
            if self._mapped_bytes - self._used_bytes <= leave:
                break
            size = self._chunk_sizes.pop(chunk)
            self._session.post(Op.UNMAP, layout.RANGE.pack(chunk, size))
            self._mapped_bytes -= size
            for granule in range(chunk // DEVICE_GRANULE, (chunk + size) // DEVICE_GRANULE):
                del self._chunk_of[granule]


def _rounded(size: int) -> int:
    """Return what an allocation of `size` bytes takes: aligned, and whole granules from one granule on."""
    rounded = (size + DEVICE_ALIGN - 1) // DEVICE_ALIGN * DEVICE_ALIGN
    if rounded > DEVICE_GRANULE:
        rounded = (rounded + DEVICE_GRANULE - 1) // DEVICE_GRANULE * DEVICE_GRANULE
    return rounded


def _runs(granules: list[int]) -> list[tuple[int, int]]:
    """Return the maximal runs [start, end) of consecutive numbers in a sorted list."""
    runs: list[tuple[int, int]] = []
    for granule in granules:
        if runs and runs[-1][1] == granule:
            runs[-1] = (runs[-1][0], granule + 1)
        else:
            runs.append((granule, granule + 1))
    return runs
