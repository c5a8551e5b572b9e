"""An executor that speaks the control protocol and computes nothing: for tests of the broker alone."""

from __future__ import annotations

import mmap
import os
import random
import socket
import sys
import time

from migproxy.abi import control
from migproxy.executor import bootstrap
from migproxy.executor.lease import LeaseClient

FACTS = control.DeviceFacts(
    kind="software",
    name="fake",
    uuid=bytes(16),
    driver_version=13000,
    total_memory=0,
    attributes={1: 1024},
    pci_bus_id="0000:00:00.0",
    compute_capability=(8, 0),
    stream_priorities=(0, -5),
    limits={},
    context_bytes=0,
)


def compute(spec: control.SessionSpec, fds: list[int], sock: socket.socket, path: str) -> None:
    """Take turns on the lease as an executor does, and count how often another one was inside too."""
    lease = LeaseClient(fds[len(spec.segment_sizes)], spec.lease_place, lambda message: bootstrap.send(sock, message))
    chooser = random.Random(spec.lease_place)
    turns = violations = 0
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as shared:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            while not lease.acquire():
                if lease.should_yield():
                    lease.release(wants=True)
                time.sleep(30e-6)
            for _ in range(chooser.randrange(1, 20)):
                if not lease.acquire():
                    break
                violations += shared[0] != 0
                shared[0] = 1
                time.sleep(chooser.randrange(1, 200) * 1e-6)
                shared[0] = 0
                turns += 1
            if lease.should_yield():
                lease.release(wants=False)
            elif chooser.random() < 0.5:
                lease.pause()
                time.sleep(chooser.randrange(1, 1000) * 1e-6)
        lease.pause()
    bootstrap.send(sock, control.Report({"turns": turns, "violations": violations, "held_ns": lease.held_ns}))
    sock.settimeout(0.01)
    while True:
        try:
            message, _ = bootstrap.receive(sock)
        except TimeoutError:
            lease.pause()  # as an idle executor does, should the lease come to it
            continue
        if isinstance(message, control.EndSession):
            os._exit(0)


def main() -> int:
    mode = sys.argv[1]
    sock = bootstrap.open_control(int(sys.argv[sys.argv.index("--control-fd") + 1]))
    bootstrap.die_with_broker()
    spec, fds = bootstrap.receive_spec(sock)
    if mode == "fail":
        bootstrap.fail(sock, "there is no such card")
        time.sleep(60)
    if mode == "silent":
        time.sleep(60)
    if mode == "crash":
        os.abort()
    print(f"executor {os.getpid()} serves {spec.session_id}", flush=True)
    bootstrap.send(sock, control.Ready(spec.windows, FACTS))
    if mode == "nonsense":
        sock.send(b"\xc1nonsense")
        time.sleep(60)
    if mode == "busy":
        time.sleep(60)
    if mode.startswith("compute:"):
        compute(spec, fds, sock, mode.removeprefix("compute:"))
    while True:
        message, received = bootstrap.receive(sock)
        if isinstance(message, control.EndSession):
            if mode == "stuck":
                time.sleep(60)
            bootstrap.send(sock, control.Report({"launches": 3, "peak_device_bytes": os.fstat(fds[0]).st_size}))
            return 0
        if isinstance(message, control.MapSegment):
            assert os.fstat(received[0]).st_size == message.size
            reason = "no room at that address" if mode == "unmappable" else ""
            bootstrap.send(sock, control.SegmentMapped(message.size, reason))


if __name__ == "__main__":
    sys.exit(main())
