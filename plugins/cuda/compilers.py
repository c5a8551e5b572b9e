"""The compiler seams for the software GPU: ``cynvrtc`` and ``cynvjitlink``.

The compilers stay real and run in the function; they need no GPU. Where a real architecture's cubin is asked of
them, the software GPU
wants PTX instead, so the caller gets a container with the PTX, which it treats as the opaque image that a cubin is.
On a real device every
call goes through unchanged; which it is, is asked when something is compiled.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Final

from migproxy_plugins.cuda.compilers_unsafe import CFunction, CStrings
from migproxy_plugins.cuda.memory_unsafe import (
    get_bytes,
    get_string,
    get_u64,
    get_u64_array,
    put_bytes,
    put_u64,
)

from migproxy.interpose import capsules
from migproxy.session import api
from migproxy.softgpu import container

log = logging.getLogger("migproxy.cuda")

_REAL_ARCHITECTURE = re.compile(rb"^((?:-arch|--gpu-architecture)[= ])?sm_(\d+[af]?)$")
_ARCHITECTURE_OPTIONS = (b"-arch", b"--gpu-architecture")
_NVRTC_INVALID_INPUT: Final = 3

# nvJitLinkInputType
_CUBIN, _PTX, _LTOIR, _FATBIN, _OBJECT, _LIBRARY, _INDEX, _ANY = 1, 2, 3, 4, 5, 6, 7, 10
# nvJitLinkResult
_ERROR_INVALID_INPUT: Final = 3
_ERROR_UNRECOGNIZED_INPUT: Final = 8
_ERROR_INTERNAL: Final = 6


def software() -> bool:
    """Whether this process's device is the software GPU."""
    return api.device_facts().kind == "software"


def virtual_architecture(options: list[bytes]) -> list[bytes]:
    """Return nvrtc options with real architectures (``sm_90``) made virtual (``compute_90``)."""
    result: list[bytes] = []
    for option in options:
        found = _REAL_ARCHITECTURE.match(option)
        if found is not None and (found.group(1) or (result and result[-1] in _ARCHITECTURE_OPTIONS)):
            option = (found.group(1) or b"") + b"compute_" + found.group(2)
        result.append(option)
    return result


class NvrtcSeam:
    """nvrtc: compile to PTX only, and hand it out in a container as the cubin.

    Parameters
    ----------
    module : ModuleType
        ``cuda.bindings.cynvrtc``, not patched yet.
    """

    def __init__(self, module: ModuleType) -> None:
        def real(name: str, arity: int) -> CFunction:
            return CFunction(capsules.pointer(module, name), arity)

        self._compile = real("nvrtcCompileProgram", 3)
        self._cubin_size = real("nvrtcGetCUBINSize", 2)
        self._cubin = real("nvrtcGetCUBIN", 2)
        self._ptx_size = real("nvrtcGetPTXSize", 2)
        self._ptx = real("nvrtcGetPTX", 2)
        self._destroy = real("nvrtcDestroyProgram", 1)
        self._virtual: set[int] = set()
        self._containers: dict[int, bytes] = {}

    def compile(self, program: int, count: int, options: int) -> int:
        """``nvrtcCompileProgram``."""
        if not software():
            return self._compile(program, count, options)
        given = [get_string(address) for address in get_u64_array(options, count)]
        changed = virtual_architecture(given)
        if changed == given:
            return self._compile(program, count, options)
        self._virtual.add(program)
        self._containers.pop(program, None)
        strings = CStrings(changed)
        return self._compile(program, len(changed), strings.address)

    def _container(self, program: int) -> tuple[int, bytes]:
        found = self._containers.get(program)
        if found is None:
            status, ptx = read_sized(self._ptx_size, self._ptx, program)
            if status:
                return status, b""
            found = self._containers[program] = container.wrap(ptx)
        return 0, found

    def cubin_size(self, program: int, size: int) -> int:
        """``nvrtcGetCUBINSize``."""
        if program not in self._virtual:
            return self._cubin_size(program, size)
        status, image = self._container(program)
        if status == 0:
            put_u64(size, len(image))
        return status

    def cubin(self, program: int, buffer: int) -> int:
        """``nvrtcGetCUBIN``."""
        if program not in self._virtual:
            return self._cubin(program, buffer)
        if not buffer:
            return _NVRTC_INVALID_INPUT
        status, image = self._container(program)
        if status == 0:
            put_bytes(buffer, image)
        return status

    def destroy(self, program: int) -> int:
        """``nvrtcDestroyProgram``; takes the address of the handle."""
        if program:
            handle = get_u64(program)
            self._virtual.discard(handle)
            self._containers.pop(handle, None)
        return self._destroy(program)


def read_sized(size_of: CFunction, read: CFunction, handle: int) -> tuple[int, bytes]:
    """Call a size function and then the function that fills a buffer of that size; returns (status, bytes)."""
    from migproxy_plugins.cuda.compilers_unsafe import Buffer

    size = Buffer(8)
    status = size_of(handle, size.address)
    if status:
        return status, b""
    buffer = Buffer(max(1, get_u64(size.address)))
    status = read(handle, buffer.address)
    return status, buffer.data if status == 0 else b""


def patch_cynvrtc(module: ModuleType) -> None:
    """Put the seam into ``cuda.bindings.cynvrtc``."""
    seam = NvrtcSeam(module)
    capsules.replace(
        module,
        {
            "nvrtcCompileProgram": seam.compile,
            "nvrtcGetCUBINSize": seam.cubin_size,
            "nvrtcGetCUBIN": seam.cubin,
            "nvrtcDestroyProgram": seam.destroy,
        },
    )


#: What linking nothing gives.
_EMPTY = b".version 6.4\n.target sm_52\n.address_size 64\n"


@dataclass
class _Link:
    """One nvJitLink handle on the software GPU."""

    ptx: list[bytes] = field(default_factory=list)
    lto_inputs: int = 0
    error: bytes = b""
    image: bytes | None = None


class NvJitLinkSeam:
    """nvJitLink: PTX inputs are collected, LTO-IR is linked to PTX by the real one, and all of it goes into a
    container.

    Parameters
    ----------
    module : ModuleType
        ``cuda.bindings.cynvjitlink``, not patched yet.
    """

    def __init__(self, module: ModuleType) -> None:
        def real(name: str, arity: int) -> CFunction:
            return CFunction(capsules.pointer(module, name), arity)

        self._create = real("nvJitLinkCreate", 3)
        self._destroy = real("nvJitLinkDestroy", 1)
        self._add_data = real("nvJitLinkAddData", 5)
        self._add_file = real("nvJitLinkAddFile", 3)
        self._complete = real("nvJitLinkComplete", 1)
        self._cubin_size = real("nvJitLinkGetLinkedCubinSize", 2)
        self._cubin = real("nvJitLinkGetLinkedCubin", 2)
        self._ptx_size = real("nvJitLinkGetLinkedPtxSize", 2)
        self._ptx = real("nvJitLinkGetLinkedPtx", 2)
        self._error_size = real("nvJitLinkGetErrorLogSize", 2)
        self._error = real("nvJitLinkGetErrorLog", 2)
        self._links: dict[int, _Link] = {}

    def create(self, handle: int, count: int, options: int) -> int:
        """``nvJitLinkCreate``: linking LTO-IR stops at PTX."""
        given = [get_string(address) for address in get_u64_array(options, count)]
        if not software():
            return self._create(handle, count, options)
        lto = any(option in (b"-lto", b"-dlto", b"-flto") for option in given)
        strings = CStrings([*given, b"-ptx"] if lto and b"-ptx" not in given else given)
        status = self._create(handle, strings.count, strings.address)
        if status == 0:
            self._links[get_u64(handle)] = _Link()
        return status

    def destroy(self, handle: int) -> int:
        """``nvJitLinkDestroy``; takes the address of the handle."""
        if handle:
            self._links.pop(get_u64(handle), None)
        return self._destroy(handle)

    def add_data(self, handle: int, kind: int, data: int, size: int, name: int) -> int:
        """``nvJitLinkAddData``."""
        link = self._links.get(handle)
        if link is None or kind == _LTOIR:
            if link is not None:
                link.lto_inputs += 1
            return self._add_data(handle, kind, data, size, name)
        return self._add(link, get_bytes(data, size), get_string(name).decode("utf-8", "replace"))

    def add_file(self, handle: int, kind: int, path: int) -> int:
        """``nvJitLinkAddFile``."""
        link = self._links.get(handle)
        if link is None or kind == _LTOIR:
            if link is not None:
                link.lto_inputs += 1
            return self._add_file(handle, kind, path)
        name = get_string(path).decode()
        try:
            return self._add(link, Path(name).read_bytes(), name)
        except OSError as error:
            link.error = str(error).encode()
            return _ERROR_INVALID_INPUT

    def _add(self, link: _Link, data: bytes, name: str) -> int:
        if Path(name).name == "libcudadevrt.a":
            # The software GPU has the functions of this library built in.
            return 0
        if container.is_container(data):
            link.ptx.extend(container.unwrap(data))
            return 0
        if looks_like_ptx(data):
            link.ptx.append(data)
            return 0
        link.error = f"the software GPU links PTX and LTO-IR only, and {name or 'an input'} is neither".encode()
        log.warning("refused: nvJitLinkAddData: %s", link.error.decode())
        return _ERROR_UNRECOGNIZED_INPUT

    def complete(self, handle: int) -> int:
        """``nvJitLinkComplete``."""
        link = self._links.get(handle)
        if link is None:
            return self._complete(handle)
        texts = list(link.ptx)
        if link.lto_inputs:
            status = self._complete(handle)
            if status:
                return status
            status, ptx = read_sized(self._ptx_size, self._ptx, handle)
            if status:
                return status
            texts.insert(0, ptx)
        link.image = container.wrap(texts or [_EMPTY])
        return 0

    def cubin_size(self, handle: int, size: int) -> int:
        """``nvJitLinkGetLinkedCubinSize``."""
        link = self._links.get(handle)
        if link is None:
            return self._cubin_size(handle, size)
        if link.image is None:
            return _ERROR_INTERNAL
        put_u64(size, len(link.image))
        return 0

    def cubin(self, handle: int, buffer: int) -> int:
        """``nvJitLinkGetLinkedCubin``."""
        link = self._links.get(handle)
        if link is None:
            return self._cubin(handle, buffer)
        if link.image is None:
            return _ERROR_INTERNAL
        put_bytes(buffer, link.image)
        return 0

    def error_size(self, handle: int, size: int) -> int:
        """``nvJitLinkGetErrorLogSize``."""
        link = self._links.get(handle)
        if link is None or not link.error:
            return self._error_size(handle, size)
        put_u64(size, len(link.error) + 1)
        return 0

    def error(self, handle: int, buffer: int) -> int:
        """``nvJitLinkGetErrorLog``."""
        link = self._links.get(handle)
        if link is None or not link.error:
            return self._error(handle, buffer)
        put_bytes(buffer, link.error + b"\0")
        return 0


def looks_like_ptx(data: bytes) -> bool:
    """Whether `data` is PTX text rather than some binary."""
    return b".version" in data[: 1 << 16] and b"\0" not in data.rstrip(b"\0")


def patch_cynvjitlink(module: ModuleType) -> None:
    """Put the seam into ``cuda.bindings.cynvjitlink``."""
    seam = NvJitLinkSeam(module)
    capsules.replace(
        module,
        {
            "nvJitLinkCreate": seam.create,
            "nvJitLinkDestroy": seam.destroy,
            "nvJitLinkAddData": seam.add_data,
            "nvJitLinkAddFile": seam.add_file,
            "nvJitLinkComplete": seam.complete,
            "nvJitLinkGetLinkedCubinSize": seam.cubin_size,
            "nvJitLinkGetLinkedCubin": seam.cubin,
            "nvJitLinkGetErrorLogSize": seam.error_size,
            "nvJitLinkGetErrorLog": seam.error,
        },
    )
