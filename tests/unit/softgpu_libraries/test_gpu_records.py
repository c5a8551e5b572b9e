"""The libraries against what a real GPU answered, where that was recorded."""

from __future__ import annotations

import importlib.util
import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from migproxy.softgpu.libraries import curand, generator_api

from .test_generator_api import Bits

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parents[3]
_spec = importlib.util.spec_from_file_location("library_cases", ROOT / "tests" / "gpu_data" / "library_cases.py")
assert _spec is not None
assert _spec.loader is not None
library_cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(library_cases)


class Software:
    """The software GPU: device memory is NumPy arrays."""

    def __init__(self):
        self._arrays = {}

    def device(self, array):
        copy = np.array(array, order="K")
        address = copy.__array_interface__["data"][0]
        self._arrays[address] = copy
        return address

    def read(self, address):
        return self._arrays[address].copy(order="K")

    def host(self, array):
        address = array.__array_interface__["data"][0]
        self._arrays[address] = array
        return address

    def module(self, name):
        return import_module(f"migproxy.softgpu.libraries.{name}")

    def handle(self, name):
        return self.module(name).create()


def recorded():
    path = DATA / "gpu_libraries.npz"
    if not path.exists():
        pytest.skip("no record of a real GPU: see tests/gpu_data/record_libraries.py")
    with np.load(path) as archive:
        return dict(archive)


@pytest.mark.parametrize("name", list(library_cases.CASES))
def test_cases_run(name):
    results = library_cases.CASES[name](Software(), np.random.default_rng(7))
    assert results


@pytest.mark.parametrize("name", list(library_cases.CASES))
def test_like_a_real_gpu(name):
    expected = recorded()
    if not any(key.startswith(f"{name}/") for key in expected):
        pytest.skip("this case failed on the real GPU when it was recorded")
    results = library_cases.CASES[name](Software(), np.random.default_rng(7))
    for key, value in results.items():
        theirs = expected[f"{name}/{key}"]
        bounds = {"rtol": 2e-3, "atol": 2e-3} if value.dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-9}
        np.testing.assert_allclose(value, theirs, **bounds, err_msg=key)


def curand_record():
    path = DATA / "curand_gpu.json"
    if not path.exists():
        pytest.skip("no record of a real GPU: see tests/gpu_data/record_curand.py")
    return json.loads(path.read_text())


def test_host_generators_like_a_real_gpu(put):
    for case in curand_record()["host"]:
        if case["generator"] not in (101, 121, 161) or "Poisson" in case["function"]:
            continue
        generator = curand.createGenerator(case["generator"])
        curand.setPseudoRandomGeneratorSeed(generator, case["seed"])
        function = case["function"]
        double, extra = "Double" in function, (0.0, 1.0) if "Normal" in function else ()
        out = np.zeros(300_000, "u4" if function == "generate" else "f8" if double else "f4")
        getattr(curand, function)(generator, put(out), out.size, *extra)
        got = np.concatenate([out[:64], out[-8:]]).astype(float)
        bounds = {"rtol": 1e-3, "atol": 1e-5} if "Normal" in function and not double else {"rtol": 1e-7, "atol": 1e-9}
        np.testing.assert_allclose(got, case["first"] + case["last"], **bounds, err_msg=str(case)[:80])


def test_device_generators_like_a_real_gpu():
    arguments = {
        "standard_gamma": (2.5,), "beta": (0.5, 0.7), "geometric": (0.2,), "hypergeometric": (30, 40, 25),
        "logseries": (0.6,), "poisson": (12.0,), "binomial": (100, 0.4), "integers": (0, 1000),
    }  # fmt: skip
    methods = ["random", "standard_normal", "standard_exponential", *arguments]
    for case in curand_record()["device"]:
        kind = ["XORWOW", "MRG32k3a", "Philox4x3210"].index(case["bit_generator"])
        # CuPy seeds through NumPy's SeedSequence.
        seed = int(np.random.SeedSequence(case["seed"]).generate_state(1, np.uint32)[0])
        bits = Bits(kind, seed, 1024)
        words = bits.states.view(np.uint32).reshape(1024, -1)[:8]
        np.testing.assert_array_equal(words, case["states"])
        out = np.zeros(64, np.int32)
        generator_api.random_raw(bits, out)
        np.testing.assert_array_equal(out, case["raw"])
        for method in methods:
            generator = generator_api.Generator(Bits(kind, seed, 1024))
            values = getattr(generator, method)(*arguments.get(method, ()), size=3000)
            got = np.concatenate([values[:16], values[-16:]]).astype(float)
            np.testing.assert_allclose(got, case[method], rtol=1e-9, err_msg=f"{case['bit_generator']} {method}")
