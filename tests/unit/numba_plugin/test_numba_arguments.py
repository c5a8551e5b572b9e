"""What a launch makes of arguments, held against Numba's own `_prepare_args`; and which releases are taken over."""

from __future__ import annotations

import ctypes
import itertools
import math
import pickle
import types as python_types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from migproxy_plugins.numba import arguments, launches, plans
from migproxy_plugins.numba.arguments import Layouts, Words, device_words, encode, scalar_converter

dispatcher = pytest.importorskip("numba.cuda.dispatcher")
numba_types = dispatcher.types
DeviceNDArray = pytest.importorskip("numba.cuda.cudadrv.devicearray").DeviceNDArray

ADDRESS = 0x7F12_3456_7800


def native_parts(kind: Any, value: Any) -> list[Any] | None:
    """What Numba passes for an argument, None if it refuses or does more than pass something."""
    kernel = object.__new__(dispatcher._Kernel)
    kernel.extensions = []
    afterwards: list[Any] = []
    prepared: list[Any] = []
    try:
        kernel._prepare_args(kind, value, 0, afterwards, prepared)
    except (TypeError, AttributeError, NotImplementedError, OverflowError, ValueError):
        return None
    return None if afterwards else prepared


def device_array(host: np.ndarray[Any, Any], address: int = ADDRESS) -> Any:
    memory = SimpleNamespace(device_ctypes_pointer=ctypes.c_void_p(address))
    return DeviceNDArray(host.shape, host.strides, host.dtype, gpu_data=memory)


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    base = np.arange(4 * 6 * 5, dtype=np.float64).reshape(4, 6, 5)
    return {
        "scalar": np.array(1.5),
        "one": np.ones(1, np.float32),
        "vector": np.ones(1000, np.float32),
        "C": base[0].copy(),
        "F": np.asfortranarray(base[0]),
        "three": base,
        "three F": np.asfortranarray(base),
        "slices": base[1:3, ::2, 1:4],
        "column": base[:, 2, 3],
        "reversed": base[0, 0, ::-1],
        "reversed rows": base[0, ::-1],
        "broadcast": np.broadcast_to(np.ones(5, np.int16), (3, 5)),
        "rows of one": base[:, :1, :1],
        "bytes": np.zeros((3, 2), np.uint8),
        "complex": np.zeros((2, 3), np.complex64),
        "booleans": np.zeros(3, np.bool_),
        "times": np.zeros(3, "M8[ms]"),
        "halves": np.zeros(3, np.float16),
        "records": np.zeros(3, [("a", np.int32), ("b", np.float64)]),
    }


@pytest.mark.parametrize("name", arrays())
def test_arrays_have_numbas_own_parameters(name: str) -> None:
    array = device_array(arrays()[name])
    kind = dispatcher.typeof(array, dispatcher.Purpose.argument)
    native = native_parts(kind, array)
    assert native is not None
    parts = [encode(each) for each in native]
    words = device_words(array)
    assert words is not None
    assert words.data == b"".join(part for part in parts if part)
    assert words.code == kind._code
    assert len(words.data) == 8 * (5 + 2 * array.ndim)


def test_arrays_of_one_kind_and_no_other_share_a_code() -> None:
    made = {name: device_array(array) for name, array in arrays().items()}
    codes = {name: (device_words(array) or Words(0, b"")).code for name, array in made.items()}
    kinds = {name: dispatcher.typeof(array, dispatcher.Purpose.argument) for name, array in made.items()}
    for a, b in itertools.combinations(codes, 2):
        assert (codes[a] == codes[b]) == (kinds[a] == kinds[b]), (a, b)


def test_arrays_without_an_address_are_left_to_numba() -> None:
    assert device_words(device_array(np.ones(4), address=0)) is None


VALUES: list[Any] = [
    *(0, 1, -1, 127, 255, 2**31, 2**63 - 1, -(2**63), True, False, 0.0, -0.0, 1.5, 1e300, 70000.0, math.inf, 3 + 4j),
    *(np.bool_(True), np.int8(-3), np.uint8(200), np.int16(-300), np.uint16(60000), np.int32(-70000)),
    *(np.uint32(2**32 - 1), np.int64(-(2**63)), np.uint64(2**64 - 1), np.float16(2.5), np.float32(1.1)),
    *(np.float64(1e300), np.complex64(1 - 2j), np.complex128(1e300 + 1j)),
    *(np.datetime64("2026-11-24T12:00", "s"), np.datetime64("NaT", "ns"), np.timedelta64(-5, "ms")),
]
KINDS = [
    *(numba_types.int8, numba_types.uint8, numba_types.int16, numba_types.uint16, numba_types.int32),
    *(numba_types.uint32, numba_types.int64, numba_types.uint64, numba_types.float16, numba_types.float32),
    *(numba_types.float64, numba_types.boolean, numba_types.complex64, numba_types.complex128),
    *(numba_types.NPDatetime("s"), numba_types.NPDatetime("ns"), numba_types.NPTimedelta("ms")),
]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_scalars_have_numbas_own_bytes(kind: Any) -> None:
    held = 0
    for value in VALUES:
        convert = scalar_converter(numba_types, type(value), kind)
        if convert is None:
            continue
        native = native_parts(kind, value)
        assert native is not None, f"{value!r} is refused by Numba"
        parts = [encode(each) for each in native]
        assert convert(value) == b"".join(part for part in parts if part is not None), repr(value)
        held += 1
    assert held >= 2


def test_every_scalar_of_a_kernels_own_type_has_a_converter() -> None:
    for value in VALUES:
        own = dispatcher.typeof(value, dispatcher.Purpose.argument)
        assert scalar_converter(numba_types, type(value), own), repr(value)


def test_integers_beyond_64_bits_with_a_sign_are_left_to_numba() -> None:
    """Numba takes another type for them."""
    convert = scalar_converter(numba_types, int, numba_types.int64)
    narrow = scalar_converter(numba_types, int, numba_types.int32)
    assert convert
    assert narrow
    for value in (2**63, 2**64 - 1, -(2**63) - 1, 2**100):
        for each in (convert, narrow):
            with pytest.raises(OverflowError):
                each(value)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (float, numba_types.int64),
        (complex, numba_types.float64),
        (int, numba_types.boolean),
        (int, numba_types.CPointer(numba_types.float64)),
        (str, numba_types.unicode_type),
        (tuple, numba_types.UniTuple(numba_types.int64, 2)),
    ],
    ids=str,
)
def test_other_conversions_are_left_to_numba(kind: type, wanted: Any) -> None:
    assert scalar_converter(numba_types, kind, wanted) is None


def test_what_cuda_core_is_given_is_encoded_or_left() -> None:
    assert encode(-1) == b"\xff" * 8
    assert encode(2**64 - 1) == b"\xff" * 8
    assert encode(True) == encode(np.bool_(True)) == b"\1"
    assert encode(ctypes.c_float(1.0)) == b"\0\0\x80\x3f"
    assert encode(2**64) is encode(None) is encode(1.5) is encode(np.int64(1)) is None


def test_layouts_are_kept_by_type_shape_and_strides_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_MOST_LAYOUTS", 3)
    layouts = Layouts()

    def array(size: int, address: int = ADDRESS) -> Any:
        return SimpleNamespace(
            dtype=np.dtype("f4"), shape=(size,), strides=(4,), ndim=1, data=SimpleNamespace(ptr=address)
        )

    def parts(size: int, address: int = ADDRESS) -> list[bytes]:
        return [word.to_bytes(8, "little") for word in (0, 0, size, 4, address, size, 4)]

    layouts.learn(array(5), 17, parts(5))
    layout = layouts.known[np.dtype("f4"), (5,), (4,)]
    assert layout.code == 17
    assert layout.before + ADDRESS.to_bytes(8, "little") + layout.after == b"".join(parts(5))
    layouts.learn(array(6), 17, parts(6, ADDRESS + 8))  # Numba would pass another address
    layouts.learn(array(7, 0), 17, parts(7, 0))
    layouts.learn(array(8), 17, parts(8)[:-1])
    assert len(layouts.known) == 1
    for size in range(10, 16):
        layouts.learn(array(size), 17, parts(size))
        assert 0 < len(layouts.known) <= 3


def test_this_release_is_taken_over() -> None:
    assert launches.has_known_shape(dispatcher, DeviceNDArray)


def changed(**attributes: Any) -> Any:
    module = python_types.ModuleType("numba.cuda.dispatcher")
    vars(module).update({**vars(dispatcher), **attributes})
    return module


def test_releases_of_another_shape_are_left_alone() -> None:
    def launch(self: Any, args: Any, griddim: Any, blockdim: Any, stream: Any = 0, sharedmem: Any = 0) -> None:
        self.tell_listeners(args)

    class Kernel(dispatcher._Kernel):  # type: ignore[misc, name-defined]
        pass

    class Prepares(dispatcher._Kernel):  # type: ignore[misc, name-defined]
        def _prepare_args(self, ty: Any, val: Any, stream: Any, retr: Any, kernelargs: Any, more: Any) -> None: ...

    class Fresh:
        _strided_memory_view_shim = _numba_type_ = property(lambda self: None)

    Kernel.launch = launch
    assert launches.has_known_shape(changed(), DeviceNDArray)
    assert not launches.has_known_shape(changed(_Kernel=Kernel), DeviceNDArray)
    assert not launches.has_known_shape(changed(_Kernel=Prepares), DeviceNDArray)
    assert not launches.has_known_shape(changed(CUDADispatcher=object), DeviceNDArray)
    assert not launches.has_known_shape(changed(), Fresh)
    assert not launches.has_known_shape(python_types.ModuleType("numba.cuda.dispatcher"), DeviceNDArray)


def test_plans_do_not_travel_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_MOST_PLANS", 2)
    of = SimpleNamespace(_migproxy_version=0, _can_compile=True)
    configured = plans.Configured(
        SimpleNamespace(dispatcher=of, griddim=(1, 1, 1), blockdim=(1, 1, 1), sharedmem=0, stream=0)
    )
    assert pickle.loads(pickle.dumps(configured)) is None
    for number in range(5):
        configured.keep((number,), None)
        assert (number,) in configured.plans
        assert len(configured.plans) <= 2
