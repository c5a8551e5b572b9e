"""An executor that speaks the control protocol and computes nothing: for tests of the broker alone."""

from __future__ import annotations

import os
import sys
import time

from migproxy.abi import control
from migproxy.executor import bootstrap

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
