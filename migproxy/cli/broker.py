"""``migproxy broker``: serve functions until told to stop."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from migproxy.abi.lease import MODES
from migproxy.errors import UsageError
from migproxy.scheduler.policy import POLICIES
from migproxy.session.connect import user_socket
from migproxy.sizes import parse_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("broker", help="Serve functions on a socket until told to stop.")(broker)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UsageError(f"bad {option} {value!r}: it is one of {', '.join(known)}")
    return value


def broker(
    socket: Annotated[str, typer.Option(help="Where to listen. Default: the user's own socket.")] = "",
    device: Annotated[
        list[str] | None, typer.Option(help="What to serve: auto, software, an index, a UUID; may be repeated.")
    ] = None,
    software_memory: Annotated[
        str, typer.Option(help="Capacity of the software GPU. Default: half of this machine's memory, at most 16GiB.")
    ] = "",
    default_memory: Annotated[
        str, typer.Option(help="Quota of a function that names none. Default: a quarter of its slice.")
    ] = "",
    max_memory: Annotated[str, typer.Option(help="Largest quota of one function. Default: its slice.")] = "",
    allow_uid: Annotated[list[int] | None, typer.Option(help="Another uid that may connect; may be repeated.")] = None,
    allow_all: Annotated[bool, typer.Option("--allow-all", help="Let every uid connect.")] = False,
    mode: Annotated[str, typer.Option(help=f"How functions share a slice: {', '.join(MODES)}.")] = "",
    policy: Annotated[str, typer.Option(help=f"Who computes next: {', '.join(POLICIES)}.")] = "gpu_time",
    kernel_seconds: Annotated[
        float, typer.Option(help="How long a kernel may run until it counts as hung. Default: for ever.")
    ] = 0.0,
    log_file: Annotated[str, typer.Option(help="Append the log as JSON lines to this file.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Serve one run only.", hidden=True)] = False,
    parent_pid: Annotated[int, typer.Option(help="End with this process.", hidden=True)] = 0,
    ready_fd: Annotated[int, typer.Option(help="Detach, and announce readiness here.", hidden=True)] = -1,
) -> int:
    """Serve functions."""
    from migproxy.broker.config import BrokerConfig
    from migproxy.broker.main import main

    path = os.path.abspath(socket or user_socket(os.environ))
    if not socket:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    config = BrokerConfig(
        socket=path,
        devices=tuple(device or ()),
        software_memory=parse_size(software_memory) if software_memory else 0,
        default_memory=parse_size(default_memory) if default_memory else 0,
        max_memory=parse_size(max_memory) if max_memory else 0,
        allow_uids=tuple(allow_uid or ()),
        allow_all=allow_all,
        private=private,
        parent_pid=parent_pid,
        mode=_one_of("--mode", mode, MODES) if mode else "",
        policy=_one_of("--policy", policy, tuple(POLICIES)),
        kernel_seconds=kernel_seconds,
        log_file=os.path.abspath(log_file) if log_file else "",
    )
    return main(config, ready_fd)
