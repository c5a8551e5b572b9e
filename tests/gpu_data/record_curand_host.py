"""Record what cuRAND's own host generators return: no GPU is needed, only libcurand.

``curandCreateGeneratorHost`` promises the sequences of the device generators. Each case draws several kinds of numbers
after one another from one generator; of each draw the first, some middle and the last numbers are kept::

    python tests/gpu_data/record_curand_host.py libcurand.so.10 tests/unit/softgpu_libraries/data/curand_host.json
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FUNCTIONS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "generate": ("curandGenerate", np.uint32, ()),
    "generateUniform": ("curandGenerateUniform", np.float32, ()),
    "generateUniformDouble": ("curandGenerateUniformDouble", np.float64, ()),
    "generateNormal": ("curandGenerateNormal", np.float32, (ctypes.c_float(0), ctypes.c_float(1))),
    "generateNormalDouble": ("curandGenerateNormalDouble", np.float64, (ctypes.c_double(0), ctypes.c_double(1))),
}
MIXTURES = [
    [[name, 5000 if "Normal" in name else 5001] for name in FUNCTIONS],
    [["generateNormalDouble", 10], ["generate", 300001], ["generateUniformDouble", 9], ["generateNormal", 6]],
    [["generateUniformDouble", 270003], ["generateUniform", 7], ["generateNormalDouble", 90000], ["generate", 3]],
]


def places(count: int) -> list[int]:
    """Return which numbers of a draw are kept."""
    spread = [int(place) for place in np.linspace(0, count - 1, 12)]
    return sorted({*range(min(6, count)), *spread, *range(max(0, count - 3), count)})


def main() -> None:
    """Record all cases into the file that the command line names."""
    library = ctypes.CDLL(sys.argv[1])
    cases = []
    for generator in (101, 121, 161):
        for ordering in (101, 103):
            for seed, offset in ((0, 0), (1234, 5), (2**40 + 7, 600001)):
                for mixture in MIXTURES:
                    handle = ctypes.c_void_p()
                    calls = [library.curandCreateGeneratorHost(ctypes.byref(handle), generator)]
                    calls.append(library.curandSetGeneratorOrdering(handle, ordering))
                    calls.append(library.curandSetPseudoRandomGeneratorSeed(handle, ctypes.c_ulonglong(seed)))
                    calls.append(library.curandSetGeneratorOffset(handle, ctypes.c_ulonglong(offset)))
                    draws = []
                    for name, count in mixture:
                        symbol, dtype, extra = FUNCTIONS[name]
                        out = np.zeros(count, dtype)
                        address = ctypes.c_void_p(out.ctypes.data)
                        calls.append(getattr(library, symbol)(handle, address, ctypes.c_size_t(count), *extra))
                        values = [out[place].item() for place in places(count)]
                        draws.append({"function": name, "count": count, "values": values})
                    calls.append(library.curandDestroyGenerator(handle))
                    assert not any(calls), calls
                    case = {"generator": generator, "ordering": ordering, "seed": seed, "offset": offset}
                    cases.append({**case, "draws": draws})
    Path(sys.argv[2]).write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
