"""``python -m migproxy.broker``: a private broker, started by a function or by ``migproxy run``. People use
``migproxy broker``.

It takes its options by hand: a function waits for this process, and argument parsers are slow to import.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from migproxy.broker.config import BrokerConfig
from migproxy.broker.main import main


def parse(arguments: list[str]) -> tuple[BrokerConfig, int]:
    """Return settings and the descriptor to announce readiness on."""
    socket, devices, parent, ready, private = "", [], 0, -1, False
    rest = iter(arguments)
    for option in rest:
        if option == "--private":
            private = True
            continue
        value = next(rest)
        if option == "--socket":
            socket = value
        elif option == "--device":
            devices.append(value)
        elif option == "--parent-pid":
            parent = int(value)
        elif option == "--ready-fd":
            ready = int(value)
        else:
            raise SystemExit(f"unknown option {option}")
    # Who starts a private broker also says what is installed beside it.
    config = BrokerConfig(socket=socket, devices=tuple(devices), private=private, parent_pid=parent)
    return (replace(config, plugins=("*",)) if private else config), ready


if __name__ == "__main__":
    sys.exit(main(*parse(sys.argv[1:])))
