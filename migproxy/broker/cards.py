"""What functions may know of the cards under the slices, read while the first executors start."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from migproxy.device.card import read_card
from migproxy.device.inventory import Slice

#: An executor takes longer to start than NVML to answer; a driver that does not answer keeps no function waiting.
_PATIENCE: Final = 1.0


class Cards:
    """The cards under `slices`.

    They are read on a thread of their own: dozens of questions to NVML would make the start of a broker wait.

    Parameters
    ----------
    slices : sequence of Slice
    nvml : module, optional
        Stands in for `pynvml` in tests.
    """

    def __init__(self, slices: Sequence[Slice], nvml: Any = None) -> None:
        self._nvml = nvml
        self._indexes = sorted({each.index for each in slices if each.kind != "software"})
        self._found: dict[int, dict[str, int | str]] = {}
        self._until = time.monotonic() + _PATIENCE
        self._thread = threading.Thread(target=self._read, name="cards", daemon=True)
        if self._indexes:
            self._thread.start()

    def of(self, where: Slice) -> dict[str, int | str]:
        """Return what may be known of the card under a slice: see `migproxy.device.card`."""
        if where.index not in self._indexes:
            return {}
        self._thread.join(max(0.0, self._until - time.monotonic()))
        return self._found.get(where.index, {})

    def _read(self) -> None:
        try:
            nvml = self._nvml or importlib.import_module("pynvml")
        except ImportError:
            return
        # Nothing here is needed to serve: what NVML refuses to tell, functions are refused too.
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            nvml.nvmlInit()
            try:
                for index in self._indexes:
                    self._found[index] = read_card(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            finally:
                nvml.nvmlShutdown()
