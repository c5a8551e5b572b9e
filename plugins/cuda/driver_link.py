"""Driver API: the JIT linker (``cuLink*``).

The inputs are collected here. One input needs no linker: completing hands it out as the image, and the driver in the
executor compiles it
when it is loaded. For the software GPU several PTX inputs go into one container.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from migproxy_plugins.cuda import status as st
from migproxy_plugins.cuda.driver_context import need_context
from migproxy_plugins.cuda.driver_modules import JitOptions
from migproxy_plugins.cuda.memory_unsafe import Strings, get_bytes, get_string, put_u64
from migproxy_plugins.cuda.registry import refuse, serves

from migproxy.abi import layout
from migproxy.errors import CudaError
from migproxy.session import api
from migproxy.softgpu import container

# CUjitInputType
_CUBIN, _PTX, _FATBINARY, _OBJECT, _LIBRARY, _NVVM = range(6)


@dataclass
class _Link:
    options: JitOptions
    inputs: list[tuple[int, bytes]] = field(default_factory=list)
    image: bytes = b""
    buffers: Strings = field(default_factory=Strings)


_links: dict[int, _Link] = {}
_numbers = itertools.count(1)


def _get(state: int) -> _Link:
    try:
        return _links[state]
    except KeyError:
        raise CudaError(st.INVALID_HANDLE, f"link {state:#x}") from None


@serves()
def cuLinkCreate(count: int, options: int, values: int, state: int) -> None:
    need_context()
    handle = layout.make_handle(layout.KIND_LINK, next(_numbers))
    _links[handle] = _Link(JitOptions(count, options, values))
    put_u64(state, handle)


@serves()
def cuLinkAddData(
    state: int, kind: int, data: int, size: int, name: int, count: int = 0, options: int = 0, values: int = 0
) -> None:
    if not data:
        raise CudaError(st.INVALID_VALUE)
    _add(_get(state), kind, get_bytes(data, size), get_string(name).decode("utf-8", "replace"))


@serves()
def cuLinkAddFile(state: int, kind: int, path: int, count: int = 0, options: int = 0, values: int = 0) -> None:
    link, name = _get(state), get_string(path).decode()
    try:
        data = Path(name).read_bytes()
    except FileNotFoundError as error:
        raise CudaError(301, name) from error
    _add(link, kind, data, name)


def _add(link: _Link, kind: int, data: bytes, name: str) -> None:
    if kind not in range(6):
        raise CudaError(st.INVALID_VALUE, f"input type {kind}")
    if container.is_container(data):
        link.inputs.extend((_PTX, text) for text in container.unwrap(data))
        return
    if kind == _NVVM:
        raise refuse("cuLinkAddData", "LTO-IR needs nvJitLink")
    if api.device_facts().kind == "software" and kind != _PTX:
        raise refuse("cuLinkAddData", f"the software GPU links PTX only, and {name or 'an input'} is not PTX")
    link.inputs.append((kind, data))


@serves()
def cuLinkComplete(state: int, image: int, size: int) -> None:
    link = _get(state)
    if not link.inputs:
        raise CudaError(st.INVALID_VALUE, "nothing to link")
    if api.device_facts().kind == "software":
        link.image = container.wrap([data for _, data in link.inputs])
    elif len(link.inputs) == 1:
        link.image = link.inputs[0][1]
    else:
        raise refuse("cuLinkComplete", "linking several inputs is done by nvJitLink, which needs no driver")
    link.options.finish()
    put_u64(image, link.buffers.address(link.image))
    put_u64(size, len(link.image))


@serves()
def cuLinkDestroy(state: int) -> None:
    _get(state)
    del _links[state]
