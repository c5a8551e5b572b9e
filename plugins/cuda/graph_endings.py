"""What executable graphs held is given back once their launches are done, without a wait for them.

Destructors may free what a launch still uses. CUDA runs them on a thread of its own, some time later; so does this,
but for graphs whose launches are seen to be done.
"""

from __future__ import annotations

import queue
import threading

from migproxy_plugins.cuda import graph_holdings
from migproxy_plugins.cuda.graph_holdings import Holding

from migproxy.errors import CudaError, MigproxyError
from migproxy.session import api
from migproxy.session.session import on_fork

#: Executable graph → the streams that it was launched into since it was last seen to be done.
_streams: dict[int, set[int]] = {}
_due: queue.SimpleQueue[tuple[list[int], Holding]] = queue.SimpleQueue()
_worker: threading.Thread | None = None
_lock = threading.Lock()


def _after_fork() -> None:
    """The parent's graphs, and the thread that waited for them, are the parent's."""
    global _worker, _lock, _due
    _streams.clear()
    _worker, _lock, _due = None, threading.Lock(), queue.SimpleQueue()


on_fork(_after_fork)


def launched(executable: int, stream: int) -> None:
    """Note a launch of what holds something."""
    if graph_holdings.holds(executable):
        _streams.setdefault(executable, set()).add(stream)


def give_back_when_done(executable: int) -> None:
    """Give back what `executable` holds, now or as soon as its launches are done; it holds nothing any more."""
    holding = graph_holdings.take(executable)
    streams = _streams.pop(executable, set())
    if holding is None:
        return
    events = [event for stream in streams if (event := _event_behind(stream))]
    if not events:
        graph_holdings.give_back(holding)
        return
    _due.put((events, holding))
    _start()


def _event_behind(stream: int) -> int:
    """Return an event behind what a stream has to do; 0: it has nothing."""
    try:
        api.stream_query(stream)
    except CudaError:
        pass
    else:
        return 0
    try:
        if not api.stream_capture_status(stream):
            event = api.event_create(2)
            api.event_record(event, stream)
            return int(event)
    except CudaError:
        pass
    # The stream was destroyed, which its work survives, or is captured, which an event would become part of.
    api.context_synchronize()
    return 0


def _start() -> None:
    global _worker
    with _lock:
        if _worker is None:
            _worker = threading.Thread(target=_work, name="migproxy-graphs", daemon=True)
            _worker.start()


def _work() -> None:
    """Give back what is due, for as long as the process lives."""
    while True:
        events, holding = _due.get()
        try:
            for event in events:
                api.event_synchronize(event)
                api.event_destroy(event)
        except (CudaError, MigproxyError):
            return  # the context is dead or the session over: nothing runs any more, but nobody knows what it left
        graph_holdings.give_back(holding)
