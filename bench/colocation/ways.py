"""Ways to share one GPU: plain processes, plain processes under MPS, functions of one broker in two of its modes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.rounds import Broker, command_for, served

MPS = "nvidia-cuda-mps-control"


class NotHere(Exception):
    """This machine has no such way."""


@dataclass
class Way:
    """How processes are started."""

    name: str
    broker: Broker
    env: dict[str, str] = field(default_factory=dict)

    def command(self, arguments: Sequence[str], memory: str) -> list[str]:
        """Return the command line of ``python ARGUMENTS``."""
        if "proxied" in self.name:
            return command_for("proxied", arguments, self.broker, "--memory", memory)
        return command_for("native", arguments, self.broker)


@contextmanager
def native(broker: Broker, scratch: Path) -> Iterator[Way]:
    """Let the driver time-slice plain processes."""
    yield Way("native", broker)


@contextmanager
def proxied(broker: Broker, scratch: Path) -> Iterator[Way]:
    """Run functions, in the broker's default mode (``overlap_cpu_memcpy``)."""
    yield Way("proxied", broker)


@contextmanager
def proxied_sequential(broker: Broker, scratch: Path) -> Iterator[Way]:
    """Run functions of a broker in mode ``sequential``: the slice is one function's until that ends."""
    own = scratch / "sequential"
    own.mkdir(exist_ok=True)
    with served(own, ["--mode", "sequential"]) as sequential:
        yield Way("proxied, sequential", sequential)


@contextmanager
def mps(broker: Broker, scratch: Path) -> Iterator[Way]:
    """Let plain processes share a context by NVIDIA's Multi-Process Service, started for this; only to compare.

    Raises
    ------
    NotHere
        It is not installed, or does not start.
    """
    if shutil.which(MPS) is None:
        raise NotHere(f"{MPS} is not installed")
    place = scratch / "mps"
    place.mkdir(exist_ok=True)
    env = {"CUDA_MPS_PIPE_DIRECTORY": str(place), "CUDA_MPS_LOG_DIRECTORY": str(place)}
    started = subprocess.run([MPS, "-d"], env={**os.environ, **env}, capture_output=True, text=True, timeout=30)
    if started.returncode:
        raise NotHere(f"{MPS} does not start: {(started.stderr or started.stdout).strip()[:200]}")
    try:
        yield Way("native, MPS", broker, env)
    finally:
        subprocess.run([MPS], input="quit\n", env={**os.environ, **env}, text=True, timeout=60, check=False)


WAYS: dict[str, Callable[[Broker, Path], AbstractContextManager[Way]]] = {
    "native": native,
    "proxied": proxied,
    "sequential": proxied_sequential,
    "mps": mps,
}
