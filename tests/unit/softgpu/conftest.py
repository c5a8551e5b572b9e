"""Fixtures of the software driver's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from softgpu_session import Session, connected


@pytest.fixture
def session() -> Iterator[Session]:
    made = connected()
    yield made
    made.engine.gate.set()
    made.cuda.cuDevicePrimaryCtxReset(0)


@pytest.fixture
def bare() -> Session:
    """A driver before ``cuInit``."""
    return Session()
