"""Whether a library's version is one that migproxy is made for; the ranges are in `migproxy.abi.support`."""

from __future__ import annotations

import re

from migproxy import distributions
from migproxy.abi.support import SUPPORTED, Supported
from migproxy.errors import UnsupportedVersion


def release_of(version: str) -> tuple[int, ...]:
    """Return the numbers a version starts with: ``(14, 2, 0)`` for ``14.2.0rc1``."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def in_range(supported: Supported, version: str) -> bool:
    """Tell whether `version` is in the range."""
    release = release_of(version)
    if not release or release < release_of(supported.least):
        return False
    return not supported.below or release < release_of(supported.below)


def describe_range(supported: Supported) -> str:
    """Return the range as people write it."""
    return f"{supported.least} or newer" + (f", below {supported.below}" if supported.below else "")


def check_installed() -> None:
    """Refuse an environment with a GPU library that migproxy is not made for.

    Raises
    ------
    UnsupportedVersion
        The message names the version and the range.
    """
    for supported in SUPPORTED:
        version = distributions.version(supported.distribution)
        if version:
            check_version(supported.distribution, version)


def check_version(distribution: str, version: str) -> None:
    """Refuse a version outside the supported range; distributions that are in no table pass.

    Raises
    ------
    UnsupportedVersion
        The message names the version and the range.
    """
    for supported in SUPPORTED:
        if supported.distribution == distribution and not in_range(supported, version):
            raise UnsupportedVersion(
                f"{distribution} {version} is not supported; "
                f"migproxy works with {distribution} {describe_range(supported)}"
            )
