from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migproxy.abi import control
from migproxy.abi.protocol import PROTOCOL_VERSION, WINDOW_BASE
from migproxy.arena import packets
from migproxy.arena.account import QuotaAccount
from migproxy.broker.config import BrokerConfig, Limits
from migproxy.broker.server import Broker
from migproxy.device.inventory import Slice, software_slice

FAKE = str(Path(__file__).with_name("fake_executor.py"))
ROOT = str(Path(__file__).resolve().parents[3])
WINDOWS = control.Windows(WINDOW_BASE, 4 << 30, WINDOW_BASE + (8 << 32), 4 << 30)


def hello(**changes: Any) -> control.Hello:
    base: dict[str, Any] = {
        "protocol": PROTOCOL_VERSION,
        "pid": os.getpid(),
        "memory": 64 << 20,
        "device": "auto",
        "windows": WINDOWS,
        "libraries": {},
        "wait_s": 0.0,
    }
    return control.Hello(**(base | changes))


class Peer:
    """A client of the broker, byte by byte."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20.0)
        self.socket.connect(path)
        self.fds: list[int] = []
        self.account: QuotaAccount | None = None

    def send(self, message: control.Message, fds: tuple[int, ...] = ()) -> None:
        packets.send(self.socket, message, fds)

    def send_raw(self, data: bytes) -> None:
        self.socket.send(data, socket.MSG_NOSIGNAL)

    def receive(self, role: str = "function") -> Any:
        message, fds = packets.receive(self.socket, role)
        self.fds += fds
        return message

    def ask(self, message: control.Message) -> Any:
        self.send(message)
        return self.receive("client")

    def ask_function(self, message: control.Message) -> Any:
        self.send(message)
        return self.receive("function")

    def open(self, **changes: Any) -> control.Welcome:
        self.send(hello(**changes))
        answer = self.receive()
        assert isinstance(answer, control.Welcome), answer
        self.account = QuotaAccount(self.fds.pop(), answer.account_place, answer.quota, writable=False)
        return answer

    def close(self) -> None:
        self.socket.close()
        packets.close_all(self.fds)
        self.fds.clear()


class Running:
    """A broker on a thread of this process; its executors are real processes."""

    def __init__(self, config: BrokerConfig, slices: list[Slice]) -> None:
        self.config = config
        self.path = config.socket
        self.broker = Broker(config, slices)
        self._wake_read, self._wake_write = os.pipe()
        self.broker.loop.watch(self._wake_read, self.broker.loop.stop)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.peers: list[Peer] = []

    def _run(self) -> None:
        self.broker.loop.run()
        self.broker.loop.unwatch(self._wake_read)
        self.broker.close()

    def peer(self) -> Peer:
        peer = Peer(self.path)
        self.peers.append(peer)
        return peer

    def stop_broker(self) -> None:
        if self._thread.is_alive():
            os.write(self._wake_write, b"x")
        self._thread.join(20.0)
        assert not self._thread.is_alive(), "the broker does not stop"

    def stop(self) -> None:
        self.stop_broker()
        for peer in self.peers:
            peer.close()
        for fd in (self._wake_read, self._wake_write):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Start a broker with a fake executor; ``mode`` is the fake's behaviour, ``memory`` the slice's capacity, unless
    `slices_served` are given."""
    monkeypatch.setenv("PYTHONPATH", ROOT)
    running: list[Running] = []

    def make(
        mode: str = "normal",
        memory: int = 1 << 30,
        limits: Limits | None = None,
        slices_served: list[Slice] | None = None,
        **settings: Any,
    ) -> Running:
        config = BrokerConfig(
            socket=str(tmp_path / f"b{len(running)}.sock"),
            executor_command=(sys.executable, FAKE, mode),
            heap_bytes=1 << 20,
            limits=limits or Limits(start_seconds=20.0, end_seconds=5.0),
            **settings,
        )
        running.append(Running(config, slices_served or [software_slice(memory)]))
        return running[-1]

    yield make
    for each in running:
        each.stop()


def until(condition: Callable[[], bool], seconds: float = 20.0, told: Callable[[], str] = lambda: "") -> None:
    """Wait until a condition that another process brings about holds; `told` says what is so instead."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time: {told()}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
