"""cuBLASLt on the software GPU: descriptors, one algorithm, and the product with the common epilogues, on NumPy."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from migproxy.softgpu.libraries import views_unsafe as raw
from migproxy_nvmath.tables import ALGORITHM, HEURISTIC

_DTYPES: dict[int, Any] = {0: np.float32, 1: np.float64, 2: np.float16, 4: np.complex64, 5: np.complex128}
# cublasLtMatmulDescAttributes_t
_TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _BIAS = 3, 4, 7, 8
# cublasLtMatrixLayoutAttribute_t
_TYPE, _ORDER, _ROWS, _COLUMNS, _LD, _BATCH, _DISTANCE = range(7)
_COLUMN_MAJOR, _ROW_MAJOR = 0, 1
# cublasLtEpilogue_t
_DEFAULT, _RELU, _BIASED, _RELU_BIASED, _GELU, _GELU_BIASED = 1, 2, 4, 6, 32, 36
_NOT_SUPPORTED, _INVALID = 15, 7


class cuBLASLtError(Exception):
    """As the library's own.

    Parameters
    ----------
    status : int
    """

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message or f"status {status}")
        self.status = status


class Attributes:
    """A descriptor: what was set, as bytes."""

    def __init__(self, **numbers: int) -> None:
        self.numbers = {int(key[1:]): value for key, value in numbers.items()}

    def get(self, attribute: int, otherwise: int = 0) -> int:
        """Return an attribute as a number."""
        return self.numbers.get(attribute, otherwise)


def create() -> object:
    """Make a handle."""
    return object()


def destroy(handle: object) -> None:
    """End a handle."""


def get_version() -> int:
    """The release whose behaviour is followed."""
    return 120900


def get_cudart_version() -> int:
    """The runtime's."""
    return 12090


def get_property(kind: int) -> int:
    """Major, minor, patch level."""
    return (12, 9, 0)[kind]


def get_status_name(status: int) -> str:
    """Return a status in words."""
    return f"status {status}"


get_status_string = get_status_name


def matmul_desc_create(compute_type: int, scale_type: int) -> Attributes:
    """Describe a product."""
    return Attributes(_0=compute_type, _1=scale_type)


def matrix_layout_create(type: int, rows: int, cols: int, ld: int) -> Attributes:
    """Describe a matrix, column by column."""
    return Attributes(_0=type, _1=_COLUMN_MAJOR, _2=rows, _3=cols, _4=ld, _5=1, _6=0)


def matmul_preference_create() -> Attributes:
    """Describe what an algorithm may use."""
    return Attributes()


def matmul_desc_destroy(desc: Attributes) -> None:
    """End a descriptor."""


matrix_layout_destroy = matmul_preference_destroy = matmul_desc_destroy


def _set(desc: Attributes, attribute: int, buf: int, size_in_bytes: int) -> None:
    if size_in_bytes > 8:
        raise cuBLASLtError(_NOT_SUPPORTED, f"attribute {attribute} of {size_in_bytes} bytes")
    data = raw.memory(buf, size_in_bytes)
    desc.numbers[attribute] = int.from_bytes(bytes(data), "little", signed=size_in_bytes == 4)


def _get(desc: Attributes, attribute: int, buf: int, size_in_bytes: int, size_written: int) -> None:
    if buf and size_in_bytes:
        found = desc.get(attribute) & ((1 << 8 * size_in_bytes) - 1)
        raw.memory(buf, size_in_bytes)[:] = found.to_bytes(size_in_bytes, "little")
    raw.memory(size_written, 8)[:] = struct.pack("<Q", size_in_bytes)


matmul_desc_set_attribute = matrix_layout_set_attribute = matmul_preference_set_attribute = _set
matmul_desc_get_attribute = matrix_layout_get_attribute = matmul_preference_get_attribute = _get


def matmul_algo_get_heuristic(
    handle: Any, desc: Any, a: Any, b: Any, c: Any, d: Any, preference: Any, requested: int, results: int, count: int
) -> None:
    """There is one algorithm, which needs no workspace."""
    if requested < 1:
        raise cuBLASLtError(_INVALID)
    raw.memory(results, HEURISTIC * requested)[:HEURISTIC] = struct.pack("<64sQif4i", b"\1", 0, 0, 1.0, 0, 0, 0, 0)
    raw.memory(count, 4)[:] = struct.pack("<i", 1)


def matmul_algo_get_ids(*arguments: Any) -> tuple[int, ...]:
    """There is one algorithm."""
    return (1,)


def matmul_algo_check(handle: Any, desc: Any, a: Any, b: Any, c: Any, d: Any, algo: int, result: int) -> None:
    """It can always be used."""
    data = bytes(raw.memory(algo, ALGORITHM))
    raw.memory(result, HEURISTIC)[:] = struct.pack("<64sQif4i", data, 0, 0, 1.0, 0, 0, 0, 0)


def _matrices(layout: Attributes, address: int) -> Any:
    """Return a view of all matrices of a batch: batch, rows, columns."""
    dtype = _DTYPES.get(layout.get(_TYPE))
    if dtype is None or layout.get(_ORDER) not in (_COLUMN_MAJOR, _ROW_MAJOR):
        raise cuBLASLtError(_NOT_SUPPORTED, f"type {layout.get(_TYPE)}, order {layout.get(_ORDER)}")
    rows, columns, ld = layout.get(_ROWS), layout.get(_COLUMNS), layout.get(_LD)
    batch, distance, item = layout.get(_BATCH, 1), layout.get(_DISTANCE), np.dtype(dtype).itemsize
    by_column = layout.get(_ORDER) == _COLUMN_MAJOR
    lines, length = (columns, rows) if by_column else (rows, columns)
    if min(rows, columns, batch) < 1 or ld < length or distance < 0:
        raise cuBLASLtError(_INVALID, f"{batch} matrices of {rows} × {columns}, leading dimension {ld}")
    elements = (batch - 1) * distance + (lines - 1) * ld + length
    memory = raw.array(address, elements, dtype)
    steps = (distance * item, item, ld * item) if by_column else (distance * item, ld * item, item)
    return np.lib.stride_tricks.as_strided(memory, (batch, rows, columns), steps)


def _operated(matrices: Any, transpose: int) -> Any:
    if not transpose:
        return matrices
    turned = matrices.transpose(0, 2, 1)
    return turned.conj() if transpose == 2 else turned


def _epilogue(desc: Attributes, result: Any, dtype: Any) -> Any:
    kind = desc.get(_EPILOGUE, _DEFAULT)
    if kind not in (0, _DEFAULT, _RELU, _BIASED, _RELU_BIASED, _GELU, _GELU_BIASED):
        raise cuBLASLtError(_NOT_SUPPORTED, f"epilogue {kind}")
    if kind & _BIASED:
        bias = raw.array(desc.get(_BIAS) & (2**64 - 1), result.shape[1], dtype)
        result = result + bias[None, :, None].astype(result.dtype)
    if kind & _RELU:
        result = np.maximum(result, 0)
    if kind & _GELU:
        result = 0.5 * result * (1 + np.tanh(np.sqrt(2 / np.pi) * (result + 0.044715 * result**3)))
    return result


def matmul(
    handle: Any, desc: Attributes, alpha: bytes, a: int, adesc: Attributes, b: int, bdesc: Attributes, beta: bytes,
    c: int, cdesc: Attributes, d: int, ddesc: Attributes, algo: int, workspace: int, workspace_bytes: int, stream: int,
) -> None:  # fmt: skip
    """``D = epilogue(alpha · op(A) · op(B) + beta · C)``."""
    scale = _DTYPES.get(desc.get(1))
    if scale is None:
        raise cuBLASLtError(_NOT_SUPPORTED, f"scale type {desc.get(1)}")
    first, second = (np.frombuffer(each, scale)[0] if each else scale(0) for each in (alpha, beta))
    left = _operated(_matrices(adesc, a), desc.get(_TRANSPOSE_A))
    right = _operated(_matrices(bdesc, b), desc.get(_TRANSPOSE_B))
    out = _matrices(ddesc, d)
    if left.shape[2] != right.shape[1] or out.shape[1:] != (left.shape[1], right.shape[2]):
        raise cuBLASLtError(_INVALID, f"{left.shape} by {right.shape} into {out.shape}")
    wide = np.result_type(scale, np.float32)
    result = first * np.matmul(left.astype(wide), right.astype(wide))
    if second != 0:
        result = result + second * _matrices(cdesc, c).astype(wide)
    out[...] = _epilogue(desc, result, out.dtype).astype(out.dtype)
