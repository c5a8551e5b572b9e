"""Library stand-ins on an executor's server with the software GPU's libraries: what travels, what comes back."""

from __future__ import annotations

import numpy as np
import pytest
from cupy_loopback import Loopback, loopback
from migproxy_plugins.cupy import roles, signatures, standin, tables

from migproxy.errors import ProtocolError

__all__ = ["loopback"]

CUBLAS = "cupy_backends.cuda.libs.cublas"
LETTERS = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}


@pytest.fixture
def cublas(loopback: Loopback):
    return standin.make(CUBLAS)


def pointer(array):
    return array.ctypes.data


def random(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.asfortranarray(values.astype(dtype))


@pytest.mark.parametrize("letter", LETTERS)
def test_gemm_takes_its_scalars_from_host_memory(cublas, loopback, letter):
    dtype = LETTERS[letter]
    a, b, c = random((3, 4), dtype), random((4, 5), dtype, 1), random((3, 5), dtype, 2)
    before = c.copy()
    alpha, beta = np.array(2, dtype), np.array(0.5, dtype)
    handle = cublas.create()
    getattr(cublas, f"{letter}gemm")(
        handle, 0, 0, 3, 5, 4, pointer(alpha), pointer(a), 3, pointer(b), 4, pointer(beta), pointer(c), 3
    )
    np.testing.assert_allclose(c, 2 * a @ b + 0.5 * before, rtol=1e-5)
    function, sent, wait = loopback.calls[-1]
    assert (function, wait) == (f"{letter}gemm", False)
    assert sent[6] == alpha.tobytes()
    assert sent[11] == beta.tobytes()


@pytest.mark.parametrize("letter", LETTERS)
def test_results_come_back_through_host_pointers(cublas, letter):
    dtype = LETTERS[letter]
    x, y = random(7, dtype), random(7, dtype, 1)
    result = np.zeros(1, dtype)
    name = {"s": "sdot", "d": "ddot", "c": "cdotu", "z": "zdotu"}[letter]
    getattr(cublas, name)(cublas.create(), 7, pointer(x), 1, pointer(y), 1, pointer(result))
    np.testing.assert_allclose(result[0], x @ y, rtol=1e-5)


def test_results_of_other_types_than_the_vector(cublas):
    x = random(9, np.complex128)
    norm, place = np.zeros(1), np.zeros(1, np.int32)
    handle = cublas.create()
    cublas.dznrm2(handle, 9, pointer(x), 1, pointer(norm))
    cublas.izamax(handle, 9, pointer(x), 1, pointer(place))
    np.testing.assert_allclose(norm[0], np.linalg.norm(x))
    assert place[0] == 1 + np.argmax(abs(x.real) + abs(x.imag))


def test_device_pointer_mode_passes_addresses(cublas, loopback):
    x, result = random(5, np.float64), np.zeros(1)
    handle = cublas.create()
    cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_DEVICE)
    assert cublas.getPointerMode(handle) == cublas.CUBLAS_POINTER_MODE_DEVICE
    cublas.ddot(handle, 5, pointer(x), 1, pointer(x), 1, pointer(result))
    function, sent, wait = loopback.calls[-1]
    assert (function, sent[-1], wait) == ("ddot", pointer(result), False)
    np.testing.assert_allclose(result[0], x @ x)


def test_handles_are_numbers_of_the_function(cublas, loopback):
    first, second = cublas.create(), cublas.create()
    assert first != second
    assert first in loopback.server.objects
    cublas.destroy(first)
    assert first not in loopback.server.objects
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        cublas.getVersion(first)


def test_errors_are_the_librarys_own(cublas):
    error = cublas.CUBLASError(7)
    assert isinstance(error, RuntimeError)
    assert (str(error), error.status) == ("CUBLAS_STATUS_INVALID_VALUE", 7)
    assert error.__reduce__() == (cublas.CUBLASError, (7,))
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_INVALID_VALUE"):
        cublas.check_status(7)


def test_a_stand_in_has_every_name_of_the_real_module(cublas):
    facts = tables.table(CUBLAS, "14.2.0")
    names = {*facts["constants"], *facts["functions"], *facts["classes"]}
    assert names <= set(dir(cublas))
    for name in names:
        getattr(cublas, name)
    with pytest.raises(AttributeError):
        cublas.no_such_function  # noqa: B018


def test_the_executor_calls_only_what_the_tables_name(loopback):
    serve = loopback.server.serve
    for library, function in ((CUBLAS, "__import__"), (CUBLAS, "os"), ("os", "system"), ("cupy.cuda.cub", "cupy")):
        with pytest.raises(ProtocolError):
            serve(loopback.context, library, function, [])


def test_the_executor_refuses_arguments_that_the_table_does_not_have(cublas, loopback):
    handle = cublas.create()
    for arguments in ([], [handle, 1, 2], [handle, "x", 1, 1, 1], [handle, None, 1, 1, 1]):
        with pytest.raises(ProtocolError):
            loopback.server.serve(loopback.context, CUBLAS, "sasum", arguments)


@pytest.mark.parametrize("size", [-1, 1 << 40, "x"])
def test_the_executor_bounds_host_memory(cublas, loopback, size):
    handle = cublas.create()
    with pytest.raises(ProtocolError):
        loopback.server.serve(loopback.context, CUBLAS, "sasum", [handle, 0, 0, 1, {"__out__": size}])


def test_curand_refuses_odd_counts_of_normal_values(loopback):
    curand = standin.make("cupy_backends.cuda.libs.curand")
    generator, values = curand.createGenerator(curand.CURAND_RNG_PSEUDO_DEFAULT), np.zeros(4)
    with pytest.raises(ValueError, match="curandGenerateNormalDouble can only generate even number"):
        curand.generateNormalDouble(generator, pointer(values), 3, 0.0, 1.0)
    curand.generateNormalDouble(generator, pointer(values), 4, 0.0, 1.0)
    assert values.all()


@pytest.mark.parametrize(
    ("library", "function", "executor_has"),
    [("cusparse", "spGEAM_createDescr", "14.0.1"), ("cusolver", "xgeev_bufferSize", "13.6.0")],
)
def test_what_the_executors_release_lacks_is_refused_by_the_library(loopback, library, function, executor_has):
    """Function and executor may hold different releases of CuPy."""
    module = standin.make(f"cupy_backends.cuda.libs.{library}")
    loopback.server.version = executor_has
    error = next(iter(module._migproxy_library.errors.values()))
    names = signatures.parse(module._migproxy_library.facts["functions"][function]).arguments
    with pytest.raises(error) as caught:
        getattr(module, function)(*([1] * len(names)))
    assert caught.value.status == roles.NOT_SUPPORTED[library]


def test_functions_of_one_name_take_the_same_arguments_in_every_release():
    """What lets a function's and an executor's CuPy differ."""
    seen: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for version in tables.recorded_versions():
        for module in tables.SHORT_NAMES:
            if not tables.recorded(module, version):
                continue
            for name, doc in tables.table(module, version)["functions"].items():
                arguments = [argument.name for argument in signatures.parse(doc).arguments]
                before = seen.setdefault((module, name), (version, arguments))
                assert before[1] == arguments, (module, name, before[0], version)


def test_what_touches_device_memory_waits_for_its_place_in_the_stream(loopback):
    """Whatever its name: only calls about objects, modes and versions need no order."""
    unordered = set()
    for module, short in tables.SHORT_NAMES.items():
        if short in ("cublas", "cusolver", "cusparse", "curand"):
            for name, doc in tables.table(module)["functions"].items():
                signature = signatures.parse(doc)
                touches = any(
                    role.kind is roles.Kind.POINTER for role in roles.roles(short, signature)
                ) and signature.result in ("", "void")
                if touches and not loopback.server._needs_order(module, name):
                    unordered.add(name)
    # They only note an address in a descriptor.
    assert unordered == {
        "csrSetPointers",
        "dnMatSetValues",
        "dnVecSetValues",
        "spMatSetValues",
        "spVecSetValues",
    }
