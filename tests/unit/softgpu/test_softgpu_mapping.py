"""Random lives of mapped memory: contents stay, accounts balance, what is gone has no access."""

from __future__ import annotations

import struct

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from softgpu_session import connected

from migproxy.softgpu.card import MIB, CardSpec

GRANULE = 2 * MIB
SLOTS = 12
PROP = struct.pack("<IIIiQQ", 1, 0, 1, 0, 0, 0)
ACCESS = struct.pack("<IiI", 1, 0, 3)


class Memory:
    """The model of one ``cuMemCreate``."""

    def __init__(self, handle: int, granules: int) -> None:
        self.handle, self.granules = handle, granules
        self.references = 1
        self.slot: int | None = None
        self.accessible = False
        self.content = b"\0" * 16


class Mapping(RuleBasedStateMachine):
    """Creates, maps, writes, unmaps, retains and releases in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.session = connected(CardSpec(memory=16 * GRANULE))
        self.base = self.session.u64("cuMemAddressReserve", SLOTS * GRANULE, 0, 0, 0)
        self.prop, self.access = self.session.data(PROP), self.session.data(ACCESS)
        self.memories: list[Memory] = []

    def _taken(self) -> set[int]:
        taken: set[int] = set()
        for memory in self.memories:
            if memory.slot is not None:
                taken.update(range(memory.slot, memory.slot + memory.granules))
        return taken

    def _used(self) -> int:
        return sum(memory.granules for memory in self.memories if memory.references or memory.slot is not None)

    def _address(self, memory: Memory) -> int:
        assert memory.slot is not None
        return self.base + memory.slot * GRANULE

    @rule(granules=st.integers(1, 5))
    def create(self, granules: int) -> None:
        at = self.session.at
        status = self.session.cuda.cuMemCreate(at, granules * GRANULE, self.prop, 0)
        if self._used() + granules > 16:
            assert status == 2
            return
        assert status == 0
        self.memories.append(Memory(int.from_bytes(self.session.out.raw[:8], "little"), granules))

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 99), slot=st.integers(0, SLOTS - 1), allow=st.booleans())
    def map(self, which: int, slot: int, allow: bool) -> None:
        memory = self.memories[which % len(self.memories)]
        if not memory.references:
            return
        size = memory.granules * GRANULE
        status = self.session.cuda.cuMemMap(self.base + slot * GRANULE, size, 0, memory.handle, 0)
        wanted = set(range(slot, slot + memory.granules))
        if slot + memory.granules > SLOTS or wanted & self._taken():
            assert status == 1
        elif memory.slot is not None:
            assert status == 801
        else:
            assert status == 0
            memory.slot, memory.accessible = slot, allow
            if allow:
                self.session.ok("cuMemSetAccess", self._address(memory), size, self.access, 1)

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 99), content=st.binary(min_size=16, max_size=16))
    def write(self, which: int, content: bytes) -> None:
        memory = self.memories[which % len(self.memories)]
        if memory.slot is not None and memory.accessible:
            # Across the last page boundary and at the very end.
            self.session.write(self._address(memory) + memory.granules * GRANULE - 16, content)
            self.session.write(self._address(memory) + GRANULE - 4104, content)
            memory.content = content

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 99))
    def unmap(self, which: int) -> None:
        memory = self.memories[which % len(self.memories)]
        if memory.slot is not None:
            self.session.ok("cuMemUnmap", self._address(memory), memory.granules * GRANULE)
            memory.slot, memory.accessible = None, False
            if not memory.references:
                self.memories.remove(memory)

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        memory = self.memories[which % len(self.memories)]
        if memory.references:
            self.session.ok("cuMemRelease", memory.handle)
            memory.references -= 1
            if not memory.references and memory.slot is None:
                self.memories.remove(memory)

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 99))
    def retain(self, which: int) -> None:
        memory = self.memories[which % len(self.memories)]
        if memory.slot is not None:
            memory.handle = self.session.u64("cuMemRetainAllocationHandle", self._address(memory) + 5)
            memory.references += 1

    @invariant()
    def contents_and_accounts(self) -> None:
        session = self.session
        session.ok("cuMemGetInfo", session.at, session.at + 8)
        free, total = struct.unpack("<QQ", session.out.raw[:16])
        assert total - free == self._used() * GRANULE
        for memory in self.memories:
            if memory.slot is None:
                continue
            end = self._address(memory) + memory.granules * GRANULE
            if memory.accessible:
                assert session.read(end - 16, 16) == memory.content
                assert session.read(self._address(memory) + GRANULE - 4104, 16) == memory.content
            else:
                assert session.cuda.cuMemcpyDtoH(session.at, end - 16, 16) == 1

    def teardown(self) -> None:
        self.session.ok("cuDevicePrimaryCtxReset", 0)


Mapping.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestMapping = Mapping.TestCase
