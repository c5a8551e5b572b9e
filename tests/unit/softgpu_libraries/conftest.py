"""Device memory for library tests: NumPy buffers at known addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Put = Callable[..., int]


class Buffers:
    """Keeps arrays alive while their addresses are in use."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray[Any, Any]] = []

    def __call__(self, value: Any, dtype: Any = None) -> int:
        """Put a value into memory as it is laid out (a scalar becomes one element) and return its address."""
        array = value if isinstance(value, np.ndarray) and dtype in (None, value.dtype) else np.array(value, dtype)
        self._kept.append(array)
        return int(array.__array_interface__["data"][0])

    def table(self, addresses: list[int]) -> int:
        """Return the address of an array of pointers."""
        return self(np.array(addresses, np.uint64))


@pytest.fixture
def put() -> Buffers:
    return Buffers()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261124)


def draw(rng: np.random.Generator, shape: Any, dtype: Any, order: Any = "F") -> np.ndarray[Any, Any]:
    """Return an array of standard normal values of any float or complex dtype."""
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.array(values, dtype, order=order)


def tolerance(dtype: Any) -> dict[str, float]:
    """Return bounds for comparing results of a dtype."""
    fine = np.dtype(dtype).char in "dD"
    return {"rtol": 1e-10 if fine else 2e-4, "atol": 1e-10 if fine else 2e-4}
