"""Whether kernels are being compiled: a launch may have to wait for that, which is no time of the kernel's own."""

from __future__ import annotations

import threading
from types import TracebackType


class _Compiling:
    """Counts the threads that compile; each does so ``with COMPILING``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._count -= 1

    def __bool__(self) -> bool:
        return self._count > 0


COMPILING = _Compiling()
