"""Sizes as people write them, and ranges of library versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migproxy.abi.support import SUPPORTED
from migproxy.errors import UnsupportedVersion, UsageError
from migproxy.sizes import format_size, parse_size
from migproxy.versions import check_version, in_range


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("512m", 512 * 10**6),
        ("1.5 KiB", 1536),
        ("7", 7),
        ("1gb", 10**9),
        (" 3Mi ", 3 << 20),
        ("10b", 10),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e9", "2 GiB GiB", "0", "9EiB", "1..5G", "99999999999T", "½G"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="bad size"):
        parse_size(text)


@given(st.integers(1, 1 << 42))
def test_what_is_printed_is_about_what_was_meant(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)


@pytest.mark.parametrize(
    ("distribution", "version", "fits"),
    [
        ("cupy-cuda12x", "13.4.0", True),
        ("cupy-cuda12x", "13.3.9", False),
        ("cupy-cuda12x", "15.0.0a1", False),
        ("numba-cuda", "0.30.4", True),
        ("numba-cuda", "0.31.0", False),
        ("cuda-bindings", "12.6", True),
        ("numpy", "3.0", True),
        ("numpy", "unknown", False),
    ],
)
def test_ranges(distribution: str, version: str, fits: bool) -> None:
    (supported,) = [each for each in SUPPORTED if each.distribution == distribution]
    assert in_range(supported, version) is fits
    if not fits:
        with pytest.raises(UnsupportedVersion, match=f"{supported.least} or newer"):
            check_version(distribution, version)
