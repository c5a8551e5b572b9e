"""Sizes and devices of the benchmarks: ``BENCH_SIZE`` is ``smoke`` or ``full``."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def smoke() -> bool:
    """True: a size that any machine finishes in seconds; the figures mean nothing."""
    return os.environ.get("BENCH_SIZE", "smoke") == "smoke"
