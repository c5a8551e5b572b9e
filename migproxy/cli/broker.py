"""``migproxy broker``: serve functions until told to stop."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated, Any

import typer

from migproxy.abi.lease import MODES
from migproxy.scheduler.policy import POLICIES
from migproxy.session.connect import user_socket
from migproxy.sizes import parse_size


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("broker", help="Serve functions on a socket until told to stop.")(broker)


def broker(
    config: Annotated[str, typer.Option(help="TOML file with settings; options given here go before it.")] = "",
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
    policy: Annotated[str, typer.Option(help=f"Who computes next: {', '.join(POLICIES)}. Default: gpu_time.")] = "",
    kernel_seconds: Annotated[
        float,
        typer.Option(
            help="How long a kernel may run until it counts as hung; 0: for ever. Default: 60.", show_default=False
        ),
    ] = -1.0,
    warm: Annotated[
        int,
        typer.Option(
            help="Executors kept ready for each slice. Default: 1 for a GPU, 0 for the software GPU.",
            show_default=False,
        ),
    ] = -1,
    metrics_port: Annotated[int, typer.Option(help="Port on 127.0.0.1 for Prometheus.")] = 0,
    log_file: Annotated[str, typer.Option(help="Append the log as JSON lines to this file.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Serve one run only.", hidden=True)] = False,
    parent_pid: Annotated[int, typer.Option(help="End with this process.", hidden=True)] = 0,
    ready_fd: Annotated[int, typer.Option(help="Detach, and announce readiness here.", hidden=True)] = -1,
) -> int:
    """Serve functions."""
    from migproxy.broker.config import BrokerConfig
    from migproxy.broker.configfile import one_of, read_config
    from migproxy.broker.main import main

    settings = BrokerConfig(socket="")
    if config:
        settings = read_config(config, settings)
    given: dict[str, Any] = {
        "devices": tuple(device or ()),
        "software_memory": parse_size(software_memory) if software_memory else 0,
        "default_memory": parse_size(default_memory) if default_memory else 0,
        "max_memory": parse_size(max_memory) if max_memory else 0,
        "allow_uids": tuple(allow_uid or ()),
        "allow_all": allow_all,
        "mode": one_of("--mode", mode, MODES) if mode else "",
        "policy": one_of("--policy", policy, tuple(POLICIES)) if policy else "",
        "log_file": os.path.abspath(log_file) if log_file else "",
        "metrics_port": metrics_port,
        "private": private,
        "parent_pid": parent_pid,
    }
    settings = replace(settings, **{name: value for name, value in given.items() if value})
    if kernel_seconds >= 0:
        settings = replace(settings, kernel_seconds=kernel_seconds)
    if warm >= 0:
        settings = replace(settings, warm=warm)
    path = os.path.abspath(socket or settings.socket or user_socket(os.environ))
    if not socket and not settings.socket:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return main(replace(settings, socket=path), ready_fd)
