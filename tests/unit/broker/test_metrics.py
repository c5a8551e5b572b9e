"""Prometheus' text format, and peers of that port that behave badly."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Callable

from .broker_tools import Running

Start = Callable[..., Running]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_metrics_can_be_scraped(start: Start) -> None:
    port = free_port()
    running = start(metrics_port=port)
    welcome = running.peer().open()
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.send(b"GET")  # a half-open scraper holds up nobody
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \S+ .+|[a-z_]+(\{[^}]*\})? [0-9.e+-]+", line), line
    assert 'migproxy_slice_memory_bytes{slice="software"} 1073741824' in text
    assert f'migproxy_slice_reserved_bytes{{slice="software"}} {welcome.quota}' in text
    assert f'session="{welcome.session_id}"' in text
    assert "migproxy_sessions_started_total 1" in text
