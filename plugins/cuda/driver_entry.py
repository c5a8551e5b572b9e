"""Driver API: function pointers. Whoever asks for one gets our entry, or not-found; never the driver's own."""

from __future__ import annotations

import logging

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.memory_unsafe import get_string, put_i32, put_u64
from migproxy_plugins.cuda.registry import serves

from migproxy.errors import CudaError

log = logging.getLogger("migproxy.cuda")

_SUCCESS, _SYMBOL_NOT_FOUND = 0, 1

#: Addresses of our C entries by unversioned name, filled when the tables are patched.
ENTRIES: dict[str, int] = {}


def entry(name: str) -> int:
    """Return the address of our C entry for a driver function, 0 if there is none.

    Raises
    ------
    CudaError
        Never; an unknown name is 0.
    """
    base = name.removesuffix("_ptsz").removesuffix("_ptds")
    found = ENTRIES.get(base, 0)
    if not found and base.rpartition("_v")[2].isdigit():
        found = ENTRIES.get(base.rpartition("_v")[0], 0)
    return found


@serves()
def cuGetProcAddress(symbol: int, pointer: int, version: int, flags: int, status: int = 0) -> None:
    name = get_string(symbol).decode("utf-8", "replace")
    address = entry(name)
    put_u64(pointer, address)
    put_i32(status, _SUCCESS if address else _SYMBOL_NOT_FOUND)
    if not address:
        log.info("cuGetProcAddress: no entry for %s", name)
        if not status:
            raise CudaError(st.NOT_FOUND, name)


@serves()
def cuGetExportTable(table: int, identifier: int) -> None:
    put_u64(table, 0)
    raise CudaError(st.NOT_FOUND, "export tables are the driver's private interface")
