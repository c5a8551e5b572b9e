"""Errors of the software GPU's math libraries.

Every module raises its own class, named as CuPy's (``CUBLASError``, ``CURANDError``, …), so that the executor can
answer with the class's name and status and the function's side can raise CuPy's own class with the same status.
"""

from __future__ import annotations

from typing import ClassVar

from migproxy.errors import SoftGpuError


class LibraryStatusError(SoftGpuError):
    """A call of a math library ended with a status other than success.

    Parameters
    ----------
    name : str
        The library, e.g. ``"cublas"``.
    status : int
        The library's own status code.
    status_name : str
        The status's C name, e.g. ``"CUBLAS_STATUS_INVALID_VALUE"``: the text that CuPy's error shows.
    detail : str, optional
        What is known beyond the status: the function and the reason. Goes to the log and to the message of a
        refusal, never into CuPy's own message.
    """

    def __init__(self, name: str, status: int, status_name: str, detail: str = "") -> None:
        super().__init__(name, status, status_name, detail)
        self.name = name
        self.status = status
        self.status_name = status_name
        self.detail = detail

    def __str__(self) -> str:
        return self.status_name + (f": {self.detail}" if self.detail else "")


class TableError(LibraryStatusError):
    """A `LibraryStatusError` of a library whose statuses are listed in a table; one subclass per library."""

    LIBRARY: ClassVar[str] = ""
    STATUS: ClassVar[dict[int, str]] = {}
    NOT_SUPPORTED: ClassVar[int] = 0
    INVALID_VALUE: ClassVar[int] = 0

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(self.LIBRARY, status, self.STATUS.get(status, f"status {status}"), detail)

    def __reduce__(self) -> tuple[type[TableError], tuple[int, str]]:
        return type(self), (self.status, self.detail)


class CUBLASError(TableError):
    """cuBLAS's status."""

    LIBRARY = "cublas"
    STATUS: ClassVar[dict[int, str]] = {
        0: "CUBLAS_STATUS_SUCCESS",
        1: "CUBLAS_STATUS_NOT_INITIALIZED",
        3: "CUBLAS_STATUS_ALLOC_FAILED",
        7: "CUBLAS_STATUS_INVALID_VALUE",
        8: "CUBLAS_STATUS_ARCH_MISMATCH",
        11: "CUBLAS_STATUS_MAPPING_ERROR",
        13: "CUBLAS_STATUS_EXECUTION_FAILED",
        14: "CUBLAS_STATUS_INTERNAL_ERROR",
        15: "CUBLAS_STATUS_NOT_SUPPORTED",
        16: "CUBLAS_STATUS_LICENSE_ERROR",
    }
    NOT_SUPPORTED = 15
    INVALID_VALUE = 7


class CUSOLVERError(TableError):
    """cuSOLVER's status."""

    LIBRARY = "cusolver"
    STATUS: ClassVar[dict[int, str]] = {
        0: "CUSOLVER_STATUS_SUCCESS",
        1: "CUSOLVER_STATUS_NOT_INITIALIZED",
        2: "CUSOLVER_STATUS_ALLOC_FAILED",
        3: "CUSOLVER_STATUS_INVALID_VALUE",
        4: "CUSOLVER_STATUS_ARCH_MISMATCH",
        5: "CUSOLVER_STATUS_MAPPING_ERROR",
        6: "CUSOLVER_STATUS_EXECUTION_FAILED",
        7: "CUSOLVER_STATUS_INTERNAL_ERROR",
        8: "CUSOLVER_STATUS_MATRIX_TYPE_NOT_SUPPORTED",
        9: "CUSOLVER_STATUS_NOT_SUPPORTED",
        10: "CUSOLVER_STATUS_ZERO_PIVOT",
        11: "CUSOLVER_STATUS_INVALID_LICENSE",
        21: "CUSOLVER_STATUS_IRS_NOT_SUPPORTED",
        30: "CUSOLVER_STATUS_IRS_MATRIX_SINGULAR",
        31: "CUSOLVER_STATUS_INVALID_WORKSPACE",
    }
    NOT_SUPPORTED = 9
    INVALID_VALUE = 3


class CuSparseError(TableError):
    """cuSPARSE's status."""

    LIBRARY = "cusparse"
    STATUS: ClassVar[dict[int, str]] = {
        0: "CUSPARSE_STATUS_SUCCESS",
        1: "CUSPARSE_STATUS_NOT_INITIALIZED",
        2: "CUSPARSE_STATUS_ALLOC_FAILED",
        3: "CUSPARSE_STATUS_INVALID_VALUE",
        4: "CUSPARSE_STATUS_ARCH_MISMATCH",
        5: "CUSPARSE_STATUS_MAPPING_ERROR",
        6: "CUSPARSE_STATUS_EXECUTION_FAILED",
        7: "CUSPARSE_STATUS_INTERNAL_ERROR",
        8: "CUSPARSE_STATUS_MATRIX_TYPE_NOT_SUPPORTED",
        9: "CUSPARSE_STATUS_ZERO_PIVOT",
        10: "CUSPARSE_STATUS_NOT_SUPPORTED",
        11: "CUSPARSE_STATUS_INSUFFICIENT_RESOURCES",
    }
    NOT_SUPPORTED = 10
    INVALID_VALUE = 3
    # cuSPARSE's own words, which CuPy appends to the name.
    WORDS: ClassVar[dict[int, str]] = {
        1: "initialization error",
        2: "out of memory",
        3: "invalid value",
        4: "architecture mismatch",
        5: "texture memory mapping error",
        6: "kernel launch failure",
        7: "internal error",
        8: "matrix type not supported",
        9: "zero pivot",
        10: "operation not supported",
        11: "insufficient resources",
    }

    @property
    def words(self) -> str:
        """cuSPARSE's own words for the status."""
        return self.WORDS.get(self.status, "unrecognized error code")


class CURANDError(TableError):
    """cuRAND's status. cuRAND has no not-supported code; it answers an unknown generator with a type error."""

    LIBRARY = "curand"
    STATUS: ClassVar[dict[int, str]] = {
        0: "CURAND_STATUS_SUCCESS",
        100: "CURAND_STATUS_VERSION_MISMATCH",
        101: "CURAND_STATUS_NOT_INITIALIZED",
        102: "CURAND_STATUS_ALLOCATION_FAILED",
        103: "CURAND_STATUS_TYPE_ERROR",
        104: "CURAND_STATUS_OUT_OF_RANGE",
        105: "CURAND_STATUS_LENGTH_NOT_MULTIPLE",
        106: "CURAND_STATUS_DOUBLE_PRECISION_REQUIRED",
        201: "CURAND_STATUS_LAUNCH_FAILURE",
        202: "CURAND_STATUS_PREEXISTING_FAILURE",
        203: "CURAND_STATUS_INITIALIZATION_FAILED",
        204: "CURAND_STATUS_ARCH_MISMATCH",
        999: "CURAND_STATUS_INTERNAL_ERROR",
    }
    NOT_SUPPORTED = 103
    INVALID_VALUE = 104


class CuFFTError(TableError):
    """cuFFT's status; CuPy calls it ``result``."""

    LIBRARY = "cufft"
    STATUS: ClassVar[dict[int, str]] = {
        0: "CUFFT_SUCCESS",
        1: "CUFFT_INVALID_PLAN",
        2: "CUFFT_ALLOC_FAILED",
        3: "CUFFT_INVALID_TYPE",
        4: "CUFFT_INVALID_VALUE",
        5: "CUFFT_INTERNAL_ERROR",
        6: "CUFFT_EXEC_FAILED",
        7: "CUFFT_SETUP_FAILED",
        8: "CUFFT_INVALID_SIZE",
        9: "CUFFT_UNALIGNED_DATA",
        10: "CUFFT_INCOMPLETE_PARAMETER_LIST",
        11: "CUFFT_INVALID_DEVICE",
        12: "CUFFT_PARSE_ERROR",
        13: "CUFFT_NO_WORKSPACE",
        14: "CUFFT_NOT_IMPLEMENTED",
        15: "CUFFT_LICENSE_ERROR",
        16: "CUFFT_NOT_SUPPORTED",
    }
    NOT_SUPPORTED = 16
    INVALID_VALUE = 4

    @property
    def result(self) -> int:
        """The status, under CuPy's name for it."""
        return self.status


class CuTensorError(TableError):
    """cuTENSOR's status."""

    LIBRARY = "cutensor"
    STATUS: ClassVar[dict[int, str]] = {
        0: "CUTENSOR_STATUS_SUCCESS",
        1: "CUTENSOR_STATUS_NOT_INITIALIZED",
        7: "CUTENSOR_STATUS_INVALID_VALUE",
        13: "CUTENSOR_STATUS_EXECUTION_FAILED",
        14: "CUTENSOR_STATUS_INTERNAL_ERROR",
        15: "CUTENSOR_STATUS_NOT_SUPPORTED",
    }
    NOT_SUPPORTED = 15
    INVALID_VALUE = 7


class UnsupportedCall(LibraryStatusError, NotImplementedError):
    """A call that the software GPU refuses in a library without statuses (CUB, Thrust, CuPy's own helpers)."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(name, 0, "not supported", detail)
