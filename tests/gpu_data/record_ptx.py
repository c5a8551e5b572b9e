"""Runs every case of ``tests/unit/ptx/cases.py`` on a real GPU, by the driver alone, and records what it yields.

``python tests/gpu_data/record_ptx.py FILE.npz`` on a machine with a GPU; needs NumPy.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "ptx"))
from cases import CASES, ITEMS, Case, inputs, kernel_text, width


class Device:
    """The first GPU, through the driver's C interface."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        context, device = ctypes.c_void_p(), ctypes.c_int()
        self.check(self.cuda.cuInit(0))
        self.check(self.cuda.cuDeviceGet(ctypes.byref(device), 0))
        name = ctypes.create_string_buffer(100)
        self.check(self.cuda.cuDeviceGetName(name, 100, device))
        self.name = name.value.decode()
        self.check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        self.check(self.cuda.cuCtxSetCurrent(context))

    @staticmethod
    def check(status: int) -> None:
        if status:
            raise RuntimeError(f"CUresult {status}")

    def _upload(self, array: np.ndarray) -> ctypes.c_uint64:
        place = ctypes.c_uint64()
        self.check(self.cuda.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(array.nbytes)))
        self.check(self.cuda.cuMemcpyHtoD_v2(place, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)))
        return place

    def run(self, case: Case, columns: list[np.ndarray]) -> np.ndarray:
        """The results of one case, as unsigned integers."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        text = kernel_text(case.text, case.dest, case.sources).encode() + b"\0"
        self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), text))
        self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, b"k"))
        result = np.zeros(ITEMS, f"u{width(case.dest) // 8}")
        places = [self._upload(array) for array in (*columns, result)]
        slots = (ctypes.c_void_p * len(places))(*[ctypes.addressof(place) for place in places])
        self.check(self.cuda.cuLaunchKernel(function, 1, 1, 1, ITEMS, 1, 1, 0, None, slots, None))
        size = ctypes.c_size_t(result.nbytes)
        self.check(self.cuda.cuMemcpyDtoH_v2(ctypes.c_void_p(result.ctypes.data), places[-1], size))
        for place in places:
            self.check(self.cuda.cuMemFree_v2(place))
        self.check(self.cuda.cuModuleUnload(module))
        return result


def main(target: str) -> None:
    device = Device()
    out: dict[str, np.ndarray] = {"device": np.array(device.name)}
    for number, case in enumerate(CASES):
        columns = inputs(case, number)
        try:
            out[case.text] = device.run(case, columns)
        except RuntimeError as error:
            print(f"{case.text}: {error}")
            continue
        for n, column in enumerate(columns):
            out[f"{case.text}#{n}"] = column
    np.savez_compressed(target, **out)
    print(f"{len(CASES)} cases on {device.name}")


if __name__ == "__main__":
    main(sys.argv[1])
