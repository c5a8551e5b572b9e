"""The software GPU's driver: libcuda's functions, called as libcuda's are.

`SoftCuda` has a method for each driver function, under its *unversioned* name and with the argument order of CUDA 12
and 13. Arguments are integers: a pointer is its address, and results are written through it. The method returns the
``CUresult``. Where CUDA 13 changed the arguments under the same name, both forms are understood by their number.

A function that it does not have is there all the same and returns ``CUDA_ERROR_NOT_SUPPORTED``; `SoftCuda.unsupported`
counts them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw
from migproxy.softgpu import written_unsafe as written
from migproxy.softgpu.arrays import quiet
from migproxy.softgpu.c_entries_unsafe import CEntries
from migproxy.softgpu.card import CardSpec
from migproxy.softgpu.link import LinkApi
from migproxy.softgpu.state import Engine, entry_before_init, need

_VERSION_SUFFIXES = ("_ptsz", "_ptds", "_v2", "_v3", "_v4", "_v5")
_SYMBOL_NOT_FOUND = 1


def unversioned(name: str) -> str:
    """A driver function's name without its version."""
    for suffix in _VERSION_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


class SoftCuda(LinkApi):
    """One loaded software driver.

    Parameters
    ----------
    spec : CardSpec, optional
        How many devices of what kind; from the environment (``MIGPROXY_SOFTGPU_*``) when left out.
    engine : Engine, optional
        The PTX compiler; `migproxy.softgpu.ptx` when left out.

    Attributes
    ----------
    last_error_detail : str
        What is known about the last failure beyond its status.
    unsupported : Counter
        The names of functions that were called and are not there.
    """

    def __init__(self, spec: CardSpec | None = None, engine: Engine | None = None) -> None:
        super().__init__(spec, engine)
        self._c_entries = CEntries(self)

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        plain = unversioned(name)
        if plain != name and self.has(plain):
            # Versions of a function differ in their arguments, which the method tells apart by their number.
            return cast("Callable[..., int]", getattr(self, plain))

        def refuse(*_: object) -> int:
            self.unsupported[name] += 1
            self.last_error_detail = f"the software GPU has no {name}"
            return status.NOT_SUPPORTED

        return refuse

    @property
    def checks_memory(self) -> bool:
        """Whether kernels run in check mode, which wants to know every allocation."""
        return written.enabled()

    def note_allocation(self, address: int, size: int) -> None:
        """For check mode: an application placed an allocation in mapped memory, or (size 0) gave it up.

        From the first one on, kernels may access what was noted, and no longer all that is mapped.
        """
        if not size:
            for context in list(self.primary.values()):
                quiet(context)  # launches before this may still use it
        self.space.note(address, size)

    def has(self, name: str) -> bool:
        """Whether a driver function is there."""
        return name.startswith("cu") and hasattr(type(self), name)

    def callback_pointer(self, name: str) -> int:
        """The address of a C function that calls the driver function ``name``.

        It may be called from any thread; it takes the GIL. It lives as long as this driver.
        """
        return self._c_entries.pointer(name)

    @entry_before_init
    def cuGetProcAddress(self, symbol: int, pfn: int, cudaVersion: int, flags: int, symbolStatus: int = 0) -> None:
        need(symbol and pfn)
        name = unversioned(raw.read_string(symbol).decode("ascii", "replace"))
        found = self._c_entries.knows(name)
        raw.write_u64(pfn, self._c_entries.pointer(name) if found else 0)
        if symbolStatus:
            raw.write_u32(symbolStatus, 0 if found else _SYMBOL_NOT_FOUND)
        need(found, f"no C entry for {name}", status.NOT_FOUND)

    @entry_before_init
    def cuGetExportTable(self, ppExportTable: int, pExportTableId: int) -> None:
        need(False, "export tables are private to the real driver", status.NOT_FOUND)
