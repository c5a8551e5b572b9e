"""The executor's half of CUDA arrays, textures and surfaces: structs are built here, of values that were checked.

A texture's or surface's handle is the driver's own number, for kernels take it as a parameter; only those that this
session made can be named.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from migproxy_plugins.cuda.array_formats import array_bytes

from migproxy.abi import layout
from migproxy.errors import CudaError, ProtocolError

if TYPE_CHECKING:
    from migproxy.executor.driver import AnyDriver
    from migproxy.executor.state import SessionState

_INVALID_VALUE, _INVALID_HANDLE = 1, 400
_U64 = (1 << 64) - 1
# CUDA_ARRAY3D_DESCRIPTOR: width, height, depth, format, channels, flags
_DESCRIPTOR = struct.Struct("<QQQIII4x")
# CUDA_RESOURCE_DESC: type; array, mipmapped array or address; format, channels; width or bytes, height, pitch
_RESOURCE = struct.Struct("<I4xQIIQQQ")
_RESOURCE_SIZE, _TEXTURE_SIZE, _VIEW_SIZE = 144, 104, 112
_OF_ARRAY, _OF_MIPMAP, _OF_LINEAR, _OF_PITCH = range(4)
_MAX_LEVELS = 32

Outputs = tuple[int, tuple[Any, ...]]


@dataclass
class _Held:
    """What a session has made."""

    textures: set[int] = field(default_factory=set)
    surfaces: set[int] = field(default_factory=set)
    #: Mipmapped array → the handles of its levels.
    levels: dict[int, set[int]] = field(default_factory=dict)


_held: WeakKeyDictionary[SessionState, _Held] = WeakKeyDictionary()


def _of(session: SessionState) -> _Held:
    return _held.setdefault(session, _Held())


def _integers(values: Sequence[Any], count: int) -> list[int]:
    if len(values) != count or not all(isinstance(value, int) and 0 <= value <= _U64 for value in values):
        raise ProtocolError(f"{count} integers were expected")
    return list(values)


def _make(driver: AnyDriver, session: SessionState, name: str, size: int, *arguments: int) -> tuple[int, int]:
    """Make something that takes device memory, charged to the quota: status and what was made."""
    session.require_room(size)
    # Arrays can be many and large, so each is measured, however little time has passed.
    session.next_measurement = 0.0
    made = ctypes.c_uint64()
    with session.charged():
        status = driver.status(name, ctypes.addressof(made), *arguments)
    return status, made.value


def _create(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    numbers = _integers(packed, 6)
    if any(number >= 1 << 32 for number in numbers[3:]):
        raise CudaError(_INVALID_VALUE, "an array's format")
    descriptor = ctypes.create_string_buffer(_DESCRIPTOR.pack(*numbers), _DESCRIPTOR.size)
    status, made = _make(driver, session, "cuArray3DCreate", array_bytes(*numbers[:5]), ctypes.addressof(descriptor))
    return (status, ()) if status else (0, (session.handles.add(layout.KIND_ARRAY, made),))


def _destroy(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    (handle,) = _integers(packed, 1)
    if any(handle in levels for levels in _of(session).levels.values()):
        raise CudaError(_INVALID_HANDLE, "a level goes with its mipmapped array")
    session.next_measurement = 0.0
    with session.charged():
        status = driver.status("cuArrayDestroy", session.handles.real(layout.KIND_ARRAY, handle))
    if not status:
        session.handles.remove(layout.KIND_ARRAY, handle)
    return status, ()


def _create_mipmap(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    *numbers, levels = _integers(packed, 7)
    if any(number >= 1 << 32 for number in numbers[3:]) or levels > _MAX_LEVELS:
        raise CudaError(_INVALID_VALUE, "a mipmapped array's format or levels")
    descriptor = ctypes.create_string_buffer(_DESCRIPTOR.pack(*numbers), _DESCRIPTOR.size)
    size = 2 * array_bytes(*numbers[:5]) if levels > 1 else array_bytes(*numbers[:5])
    where = ctypes.addressof(descriptor)
    status, made = _make(driver, session, "cuMipmappedArrayCreate", size, where, levels)
    return (status, ()) if status else (0, (session.handles.add(layout.KIND_MIPMAP, made),))


def _level(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    handle, level = _integers(packed, 2)
    real = session.handles.real(layout.KIND_MIPMAP, handle)
    made = ctypes.c_uint64()
    status = driver.status("cuMipmappedArrayGetLevel", ctypes.addressof(made), real, level & 0xFFFFFFFF)
    if status:
        return status, ()
    levels = _of(session).levels.setdefault(handle, set())
    known = [each for each in levels if session.handles.real(layout.KIND_ARRAY, each) == made.value]
    found = known[0] if known else session.handles.add(layout.KIND_ARRAY, made.value)
    levels.add(found)
    values = ctypes.create_string_buffer(_DESCRIPTOR.size)
    driver.call("cuArray3DGetDescriptor", ctypes.addressof(values), made.value)
    return 0, (found, *_DESCRIPTOR.unpack(values.raw))


def _destroy_mipmap(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    (handle,) = _integers(packed, 1)
    session.next_measurement = 0.0
    with session.charged():
        status = driver.status("cuMipmappedArrayDestroy", session.handles.real(layout.KIND_MIPMAP, handle))
    if not status:
        session.handles.remove(layout.KIND_MIPMAP, handle)
        for level in _of(session).levels.pop(handle, ()):
            session.handles.remove(layout.KIND_ARRAY, level)
    return status, ()


def _plane(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    handle, plane = _integers(packed, 2)
    made = ctypes.c_uint64()
    real = session.handles.real(layout.KIND_ARRAY, handle)
    status = driver.status("cuArrayGetPlane", ctypes.addressof(made), real, plane & 0xFFFFFFFF)
    if status:
        return status, ()
    # A plane lives as long as its array and is not destroyed by itself.
    values = ctypes.create_string_buffer(_DESCRIPTOR.size)
    driver.call("cuArray3DGetDescriptor", ctypes.addressof(values), made.value)
    return 0, (session.handles.add(layout.KIND_ARRAY, made.value), *_DESCRIPTOR.unpack(values.raw))


def _resource(session: SessionState, values: Any) -> ctypes.Array[ctypes.c_char]:
    """Build a ``CUDA_RESOURCE_DESC`` of the session's own arrays and memory."""
    if not isinstance(values, list):
        raise ProtocolError("a resource was expected")
    kind, what, form, channels, width, height, pitch = _integers(values, 7)
    if kind == _OF_ARRAY:
        what = session.handles.real(layout.KIND_ARRAY, what)
    elif kind == _OF_MIPMAP:
        what = session.handles.real(layout.KIND_MIPMAP, what)
    elif kind in (_OF_LINEAR, _OF_PITCH):
        rows = height if kind == _OF_PITCH else 1
        if kind == _OF_PITCH and not (rows and pitch):
            raise CudaError(_INVALID_VALUE, "a resource without rows")
        # A pitched resource may end with its last row's elements.
        length = width if kind == _OF_LINEAR else pitch * (rows - 1) + array_bytes(width, 1, 1, form, channels)
        if not session.consumer.in_heap(what, length):
            session.memory.check_range(what, length)
    else:
        raise CudaError(_INVALID_VALUE, f"a resource of type {kind}")
    data = _RESOURCE.pack(kind, what, form & 0xFFFFFFFF, channels & 0xFFFFFFFF, width, height, pitch)
    return ctypes.create_string_buffer(data, _RESOURCE_SIZE)


def _texture(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    if len(packed) != 3 or not all(isinstance(part, bytes) for part in packed[1:]):
        raise ProtocolError("a resource, a texture and a view were expected")
    resource = _resource(session, packed[0])
    if len(packed[1]) != _TEXTURE_SIZE or len(packed[2]) not in (0, _VIEW_SIZE):
        raise ProtocolError("a texture description of another size")
    texture, view = ctypes.create_string_buffer(packed[1]), ctypes.create_string_buffer(packed[2])
    made = ctypes.c_uint64()
    status = driver.status(
        "cuTexObjectCreate",
        ctypes.addressof(made),
        ctypes.addressof(resource),
        ctypes.addressof(texture),
        ctypes.addressof(view) if packed[2] else 0,
    )
    if status:
        return status, ()
    _of(session).textures.add(made.value)
    return 0, (made.value,)


def _surface(driver: AnyDriver, session: SessionState, packed: Sequence[Any]) -> Outputs:
    if len(packed) != 1:
        raise ProtocolError("a resource was expected")
    resource = _resource(session, packed[0])
    made = ctypes.c_uint64()
    status = driver.status("cuSurfObjectCreate", ctypes.addressof(made), ctypes.addressof(resource))
    if status:
        return status, ()
    _of(session).surfaces.add(made.value)
    return 0, (made.value,)


def _drop(driver: AnyDriver, packed: Sequence[Any], name: str, held: set[int]) -> Outputs:
    (handle,) = _integers(packed, 1)
    if handle not in held:
        raise CudaError(_INVALID_VALUE, f"{handle:#x} is no such object of this session")
    status = driver.status(name, handle)
    if not status:
        held.discard(handle)
    return status, ()


_SERVERS: Final[dict[str, Callable[[AnyDriver, SessionState, Sequence[Any]], Outputs]]] = {
    "cuArray3DCreate": _create,
    "cuArrayDestroy": _destroy,
    "cuArrayGetPlane": _plane,
    "cuMipmappedArrayCreate": _create_mipmap,
    "cuMipmappedArrayDestroy": _destroy_mipmap,
    "cuMipmappedArrayGetLevel": _level,
    "cuTexObjectCreate": _texture,
    "cuSurfObjectCreate": _surface,
    "cuTexObjectDestroy": lambda driver, session, packed: _drop(
        driver, packed, "cuTexObjectDestroy", _of(session).textures
    ),
    "cuSurfObjectDestroy": lambda driver, session, packed: _drop(
        driver, packed, "cuSurfObjectDestroy", _of(session).surfaces
    ),
}
ARRAY_FUNCTIONS: Final = frozenset(_SERVERS)


def serve_array(
    driver: AnyDriver, session: SessionState, name: str, packed: Sequence[Any]
) -> tuple[int, tuple[Any, ...]]:
    """Carry out one of `ARRAY_FUNCTIONS`; see `executor.serve`."""
    return _SERVERS[name](driver, session, packed)
