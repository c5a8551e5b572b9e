"""A shared broker whose executors die at planned steps: ``killing_broker.py SOCKET DEVICE PLAN``; see
killing_executor.py."""

from __future__ import annotations

import sys
from pathlib import Path

from migproxy.broker.config import BrokerConfig
from migproxy.broker.main import main

if __name__ == "__main__":
    socket, device, plan = sys.argv[1:]
    executor = str(Path(__file__).with_name("killing_executor.py"))
    config = BrokerConfig(
        socket=socket,
        devices=(device,),
        default_memory=2 << 30 if device != "software" else 128 << 20,
        software_memory=1 << 30,
        kernel_seconds=2.0,
        warm=0,  # a waiting executor would have read the plan of an earlier victim
        executor_command=(sys.executable, executor, plan),
    )
    sys.exit(main(config))
