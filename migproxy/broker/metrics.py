"""Prometheus metrics of a broker on a local port, in the text format, which is small enough to write by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from migproxy.errors import UsageError

if TYPE_CHECKING:
    from migproxy.broker.server import Broker

_MAX_REQUEST = 8192
_PATIENCE = 5.0
#: Scrapers connected at a time.
_MAX_CONNECTIONS = 8


class MetricsServer:
    """Answers every HTTP request on 127.0.0.1 with the metrics.

    Parameters
    ----------
    broker : Broker
    port : int
    """

    def __init__(self, broker: Broker, port: int) -> None:
        self._broker = broker
        self._open = 0
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind(("127.0.0.1", port))
        except OSError as error:
            self._listener.close()
            raise UsageError(f"no metrics on port {port}: {error.strerror or error}") from error
        self._listener.listen(4)
        self._listener.setblocking(False)
        broker.loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening."""
        self._broker.loop.unwatch(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if self._open >= _MAX_CONNECTIONS:
            sock.close()
            return
        self._open += 1
        sock.setblocking(False)
        received = bytearray()

        def close() -> None:
            if sock.fileno() >= 0:
                self._open -= 1
                timer.cancel()
                self._broker.loop.unwatch(sock.fileno())
                sock.close()

        def readable() -> None:
            try:
                data = sock.recv(_MAX_REQUEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            received.extend(data)
            if data and b"\r\n\r\n" not in received and len(received) < _MAX_REQUEST:
                return
            if data:
                body = "".join(lines(self._broker)).encode()
                head = (
                    f"HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                # Far less than a socket's buffer; a peer that takes none of it gets a cut-off answer.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                with contextlib.suppress(OSError):
                    sock.send(head.encode() + body)
            close()

        timer = self._broker.loop.call_later(_PATIENCE, close)
        self._broker.loop.watch(sock.fileno(), readable)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", " ")


def lines(broker: Broker) -> Iterator[str]:
    """Yield the exposition's lines."""
    gauges: dict[str, tuple[str, list[tuple[str, float]]]] = {}

    def add(name: str, words: str, label: str, value: float) -> None:
        gauges.setdefault(name, (words, []))[1].append((label, value))

    for each in broker.slices:
        label = f'slice="{_escape(each.name)}"'
        ledger, lease = broker.ledgers[each.name], broker.leases.get(each.name)
        add("migproxy_slice_memory_bytes", "Memory of the slice.", label, ledger.capacity)
        add("migproxy_slice_reserved_bytes", "Quotas on the slice.", label, ledger.reserved)
        add("migproxy_slice_sessions", "Sessions on the slice.", label, ledger.sessions)
        add("migproxy_slice_warm_executors", "Executors that wait.", label, broker.warm.waiting(each.name))
        add("migproxy_slice_lease_waiting", "Sessions that wait for the lease.", label, lease.waiting if lease else 0)
        add("migproxy_slice_lease_held", "1: somebody computes or may.", label, int(bool(lease and lease.holder)))
    for session in broker.sessions.values():
        label = f'session="{session.session_id}",slice="{_escape(session.slice.name)}",uid="{session.uid}"'
        lease = broker.leases.get(session.slice.name)
        held = lease.held_ns(session.session_id) if lease else session.counters.get("gpu_time_ns", 0)
        add("migproxy_session_gpu_seconds", "Time with the lease.", label, held / 1e9)
        busy = session.counters.get("gpu_busy_ns", 0)
        add("migproxy_session_busy_seconds", "Time with work on the multiprocessors, by events.", label, busy / 1e9)
        add("migproxy_session_arena_bytes", "Shared memory.", label, session.arena_bytes)
        add("migproxy_session_quota_bytes", "Quota of its function.", label, session.quota)
    add("migproxy_sessions_started_total", "Sessions admitted.", "", broker.admitted)
    add("migproxy_refused_total", "Functions refused.", "", broker.refused)
    for name, (words, values) in gauges.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        yield f"# HELP {name} {words}\n# TYPE {name} {kind}\n"
        for label, value in values:
            yield f"{name}{{{label}}} {value!r}\n" if label else f"{name} {value!r}\n"
