"""CUDA's data types (``cudaDataType``) as NumPy storage, with what NumPy lacks: bfloat16 and complex half."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

R_32F, R_64F, R_16F, R_8I, C_32F, C_64F, C_16F = 0, 1, 2, 3, 4, 5, 6
R_8U, R_32I, R_16BF = 8, 10, 14


class DataType(NamedTuple):
    """How values of one CUDA type are stored and with which NumPy type they are computed."""

    storage: np.dtype[Any]
    compute: np.dtype[Any]


DATA_TYPES: dict[int, DataType] = {
    R_32F: DataType(np.dtype(np.float32), np.dtype(np.float32)),
    R_64F: DataType(np.dtype(np.float64), np.dtype(np.float64)),
    R_16F: DataType(np.dtype(np.float16), np.dtype(np.float32)),
    R_8I: DataType(np.dtype(np.int8), np.dtype(np.int32)),
    C_32F: DataType(np.dtype(np.complex64), np.dtype(np.complex64)),
    C_64F: DataType(np.dtype(np.complex128), np.dtype(np.complex128)),
    # A complex half is two halves; as one field it can be moved about like any other element.
    C_16F: DataType(np.dtype([("re", np.float16), ("im", np.float16)]), np.dtype(np.complex64)),
    R_8U: DataType(np.dtype(np.uint8), np.dtype(np.int32)),
    R_32I: DataType(np.dtype(np.int32), np.dtype(np.int32)),
    R_16BF: DataType(np.dtype(np.uint16), np.dtype(np.float32)),
}


def widen(stored: Array, cuda_type: int) -> Array:
    """Return stored values in their compute type; a view where the two are the same."""
    if cuda_type == R_16BF:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if cuda_type == C_16F:
        wide = np.empty(stored.shape, np.complex64)
        wide.real, wide.imag = stored["re"], stored["im"]
        return wide
    return stored.astype(DATA_TYPES[cuda_type].compute, copy=False)


def store(target: Array, values: Array, cuda_type: int) -> None:
    """Write computed values into storage, rounding to nearest even as the GPU does."""
    if cuda_type == R_16BF:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        target[...] = np.where(np.isnan(values), np.uint16(0x7FFF), rounded)
    elif cuda_type == C_16F:
        with np.errstate(over="ignore"):
            target["re"], target["im"] = values.real, values.imag
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            target[...] = values
