"""A broker process, from its settings to its end."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import replace

from migproxy.broker.config import BrokerConfig
from migproxy.broker.configfile import one_of
from migproxy.broker.server import Broker
from migproxy.device.choose import select, slices_to_serve
from migproxy.device.inventory import DriverBroken, Slice
from migproxy.errors import UsageError
from migproxy.sizes import format_size


def serve(config: BrokerConfig, on_ready: Callable[[str], None]) -> None:
    """Run a broker until it is told to stop.

    Parameters
    ----------
    config : BrokerConfig
    on_ready : callable
        Gets an empty string once functions can connect.

    Raises
    ------
    UsageError
        The settings cannot be met here.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        slices = slices_to_serve(config.devices, software_memory=config.software_memory)
    except DriverBroken as error:
        raise UsageError(str(error)) from error
    broker = Broker(config, divide(slices, config))
    on_ready("")
    broker.run()


def divide(slices: list[Slice], config: BrokerConfig) -> list[Slice]:
    """Return the slices to serve: unisolated ones in place of the devices that they are parts of.

    Raises
    ------
    UsageError
        A part names no device that is served, or the parts of one exceed its memory.
    """
    found: list[Slice] = []
    left = {each.name: each.memory for each in slices}
    divided: set[str] = set()
    for name, part in config.unisolated_slices.items():
        (device,) = select(part.device, slices)
        left[device.name] -= part.memory
        if left[device.name] < 0:
            raise UsageError(f"the unisolated slices of {device.name} exceed its {format_size(device.memory)}")
        divided.add(device.name)
        found.append(replace(device, name=name, memory=part.memory))
    served = [each for each in slices if each.name not in divided] + found
    for name in config.slices:
        one_of("slices", name, [each.name for each in served])
    return served


def detach(ready_fd: int) -> Callable[[str], None]:
    """Leave the starting process: a private broker is nobody's child, so that a script's ``os.wait()`` never meets it.

    Returns what to call with an empty string when the broker serves, or with the line that says why it cannot; the
    starting process reads that from the other end of `ready_fd`.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")

    def tell(reason: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(ready_fd, (reason or "ready").encode() + b"\n")
        os.close(ready_fd)

    return tell


def main(config: BrokerConfig, ready_fd: int = -1) -> int:
    """Serve, in the background if `ready_fd` is given; returns the exit code."""

    def announce(reason: str) -> None:
        print(reason or f"migproxy broker serves on {config.socket}", file=sys.stderr, flush=True)

    tell = detach(ready_fd) if ready_fd >= 0 else announce
    try:
        serve(config, tell)
    except UsageError as error:
        tell(f"migproxy: {error}" if ready_fd < 0 else str(error))
        return 2
    return 0
