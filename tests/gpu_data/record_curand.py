"""Record cuRAND's numbers on a real GPU through CuPy: run it natively, where a GPU is.

Prints JSON: per generator type and seed the first 64 numbers of each kind (host API), and per bit generator the states
that ``curand_init`` made, the first raw numbers and the first numbers of each distribution (device API)::

    python tests/gpu_data/record_curand.py > tests/unit/softgpu_libraries/data/curand_gpu.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import cupy
from cupy.cuda import curand

SEEDS = (0, 1, 1234, 2**40 + 7)
HOST = {
    "generate": ("uint32", ()),
    "generateUniform": ("float32", ()),
    "generateUniformDouble": ("float64", ()),
    "generateNormal": ("float32", (0.0, 1.0)),
    "generateNormalDouble": ("float64", (0.0, 1.0)),
    "generatePoisson": ("uint32", (5.0,)),
}
DISTRIBUTIONS: dict[str, tuple[Any, ...]] = {
    "random": (),
    "standard_normal": (),
    "standard_exponential": (),
    "standard_gamma": (2.5,),
    "beta": (0.5, 0.7),
    "geometric": (0.2,),
    "hypergeometric": (30, 40, 25),
    "logseries": (0.6,),
    "poisson": (12.0,),
    "binomial": (100, 0.4),
    "integers": (0, 1000),
}


def host() -> list[dict[str, Any]]:
    """Return the first numbers of each generator, seed and kind, each from a fresh generator."""
    records = []
    for kind in (101, 121, 161, 142, 141):
        for seed in SEEDS:
            for name, (dtype, extra) in HOST.items():
                generator = curand.createGenerator(kind)
                curand.setPseudoRandomGeneratorSeed(generator, seed)
                out = cupy.zeros(300_000, dtype)
                getattr(curand, name)(generator, out.data.ptr, out.size, *extra)
                values = cupy.asnumpy(out)
                curand.destroyGenerator(generator)
                record = {"generator": kind, "seed": seed, "function": name, "first": values[:64].tolist()}
                records.append({**record, "last": values[-8:].tolist()})
    return records


def device() -> list[dict[str, Any]]:
    """Return states and numbers of the bit generators with a fixed number of lanes."""
    records = []
    for name in ("XORWOW", "MRG32k3a", "Philox4x3210"):
        for seed in (0, 1234):
            bits = getattr(cupy.random, name)(seed, size=1024)
            states = bits._state.view(cupy.uint32).reshape(1024, -1)
            record: dict[str, Any] = {"bit_generator": name, "seed": seed, "states": cupy.asnumpy(states[:8]).tolist()}
            record["raw"] = cupy.asnumpy(bits.random_raw(64)).tolist()
            for method, arguments in DISTRIBUTIONS.items():
                generator = cupy.random.Generator(getattr(cupy.random, name)(seed, size=1024))
                values = cupy.asnumpy(getattr(generator, method)(*arguments, size=3000))
                record[method] = values[:16].tolist() + values[-16:].tolist()
            records.append(record)
    return records


if __name__ == "__main__":
    json.dump({"cupy": cupy.__version__, "curand": curand.getVersion(), "host": host(), "device": device()}, sys.stdout)
