"""The broker: one thread that admits functions, starts and ends their executors, keeps the ledger and answers the
command line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import signal
import socket
import stat
import time
import traceback
from collections import Counter
from types import FrameType

import msgspec

from migproxy.abi import control, layout
from migproxy.abi.control import Hello, Message
from migproxy.abi.lease import DEFAULT_MODE
from migproxy.abi.protocol import PROTOCOL_VERSION
from migproxy.abi.sharing import Give, Take, Withdraw
from migproxy.arena import packets, segment
from migproxy.broker import admission, segments
from migproxy.broker.cards import Cards
from migproxy.broker.client import Client
from migproxy.broker.config import BrokerConfig, SliceSettings
from migproxy.broker.leases import SliceLease
from migproxy.broker.ledger import Ledger
from migproxy.broker.log import Log
from migproxy.broker.loop import Loop, Timer
from migproxy.broker.metrics import MetricsServer
from migproxy.broker.requests import answer
from migproxy.broker.sessions import MAX_COUNTERS, Reports, Session
from migproxy.broker.shares import Shares
from migproxy.broker.usage import UsageCheck, Used
from migproxy.broker.warm import WarmPool
from migproxy.device.inventory import Slice
from migproxy.errors import ProtocolError, UsageError
from migproxy.scheduler.policy import Claim
from migproxy.sizes import format_size

LEAST_PRIORITY = -100
LONGEST_DEADLINE_MS = 3_600_000


class _Waiting:
    """A function that waits for room."""

    def __init__(self, client: Client, hello: Hello, fds: list[int], timer: Timer) -> None:
        self.client = client
        self.hello = hello
        self.fds = fds
        self.timer = timer


class Broker:
    """A broker that serves `slices` on ``config.socket``."""

    def __init__(self, config: BrokerConfig, slices: list[Slice]) -> None:
        self.config = config
        self.slices = slices
        self.log = Log(config.log_file)
        self.loop = Loop(self._log_failure)
        self.ledgers = {each.name: Ledger(each.memory) for each in slices}
        mode = config.mode or ("full_overlap" if config.private else DEFAULT_MODE)
        # Its own watchdog comes first; the broker's is for executors that are stuck themselves.
        patience = config.patience(leased=True) * 1.5
        self.leases: dict[str, SliceLease] = {}
        for each in slices:
            own = config.slices.get(each.name, SliceSettings())
            if (own.mode or mode) != "full_overlap":
                self.leases[each.name] = SliceLease(
                    self.loop, each.name, own.policy or config.policy, own.mode or mode, patience
                )
        self.warm = WarmPool(self.loop, self.log, config, slices, lambda name: self.ledgers[name].free)
        self.sessions: dict[str, Session] = {}
        self.reports = Reports()
        self.shares = Shares(config.limits.shared)
        self.started = time.monotonic()
        self.admitted = 0
        self.refused = 0
        self._by_client: dict[Client, Session] = {}
        self._of_session: dict[str, Client] = {}
        self._clients: set[Client] = set()
        self._connections: Counter[int] = Counter()
        self._silent: dict[Client, Timer] = {}
        self._waiting: list[_Waiting] = []
        self._stopping = False
        self._own_uid = os.getuid()
        self._lock_fd, self._listener = _listen(
            config.socket, open_to_others=bool(config.allow_uids) or config.allow_all
        )
        self.loop.watch(self._listener.fileno(), self._accept)
        self._listening = True
        self._usage = UsageCheck(
            slices, self._over_quota, lambda text: self.log.write("warning", text, uid=self._own_uid)
        )
        if self._usage.has_work and config.usage_seconds:
            self.loop.call_later(config.usage_seconds, self._check_usage)
        self._cards = Cards(slices)
        self._metrics = MetricsServer(self, config.metrics_port) if config.metrics_port else None
        if config.parent_pid:
            self._watch_parent(config.parent_pid)

    def _log_failure(self, error: Exception) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        self.log.write(
            "error", f"internal: {type(error).__name__}: {error} at {where.filename}:{where.lineno}", uid=self._own_uid
        )

    # -- life ----------------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Serve until a signal or the parent's end; then end every session and remove the socket."""
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)

        def drain() -> None:
            wake_read.recv(64)

        self.loop.watch(wake_read.fileno(), drain)
        signal.set_wakeup_fd(wake_write.fileno())

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self.loop.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)
        self.log.write("info", f"broker serves {', '.join(each.name for each in self.slices)} on {self.config.socket}")
        try:
            self.loop.run()
        finally:
            self.close()
            signal.set_wakeup_fd(-1)
            wake_read.close()
            wake_write.close()

    def close(self) -> None:
        """End every session, wait for the executors, remove the socket."""
        self._stopping = True
        self._stop_listening()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.config.socket)
        if self._metrics is not None:
            self._metrics.close()
        self.warm.close()
        for session in list(self.sessions.values()):
            self.lose(session, "the broker stops")
        deadline = time.monotonic() + 5.0
        while (self.sessions or self.warm.alive) and time.monotonic() < deadline:
            self.loop.step(0.1)
        for client in list(self._clients):
            client.close()
        for lease in self.leases.values():
            lease.close()
        self.loop.close()
        self.log.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.config.socket + ".lock")
        os.close(self._lock_fd)
        if self.config.private:
            # Its socket had a directory of its own; anything else in there is not ours to remove.
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self.config.socket))

    def _watch_parent(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.loop.call_later(0, self.loop.stop)
            return
        self.loop.watch(pidfd, self.loop.stop)

    # -- connections ---------------------------------------------------------------------------------------------------
    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                # Out of descriptors: let those that wait wait, instead of spinning on the readable listener.
                self._stop_listening()
                self.loop.call_later(0.2, self._listen_again)
            return
        client = Client(self.loop, sock, self._packet, self._closed)
        self._clients.add(client)
        self._connections[client.uid] += 1
        if not self._may_connect(client.uid):
            self.log.write("warning", f"uid {client.uid} (pid {client.pid}) was refused")
            client.refuse("usage", f"uid {client.uid} may not use this broker, which runs as uid {self._own_uid}")
        elif self._connections[client.uid] > self.config.limits.connections:
            client.refuse(
                "busy", f"uid {client.uid} has {self.config.limits.connections} connections, which is the limit"
            )
        else:
            self._silent[client] = self.loop.call_later(self.config.limits.hello_seconds, client.close)

    def _may_connect(self, uid: int) -> bool:
        return uid in (self._own_uid, 0) or self.config.allow_all or uid in self.config.allow_uids

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            self.loop.unwatch(self._listener.fileno())

    def _listen_again(self) -> None:
        if not self._listening and not self._stopping:
            self._listening = True
            self.loop.watch(self._listener.fileno(), self._accept)

    def _closed(self, client: Client) -> None:
        self._clients.discard(client)
        self._connections[client.uid] -= 1
        if not self._connections[client.uid]:
            del self._connections[client.uid]
        self._heard(client)
        for waiting in [each for each in self._waiting if each.client is client]:
            self._stop_waiting(waiting)
            packets.close_all(waiting.fds)
        session = self._by_client.pop(client, None)
        if session is not None:
            self._of_session.pop(session.session_id, None)
            self._end(session)

    def _heard(self, client: Client) -> None:
        timer = self._silent.pop(client, None)
        if timer is not None:
            timer.cancel()

    def _packet(self, client: Client, data: bytes, fds: list[int]) -> None:
        self._heard(client)
        kept = False
        try:
            message = packets.decode(data, "broker")
            if isinstance(message, Hello):
                kept = True
                self._hello(client, message, fds)
                client.close_with_process()
            elif isinstance(message, control.GrowArena):
                self._grow(client, message)
            elif isinstance(message, control.Goodbye):
                client.close()
            elif isinstance(message, control.Note):
                session = self._by_client.get(client)
                if session is not None:
                    self.log.write(message.level, message.text, session.session_id, uid=session.uid)
            else:
                client.send(answer(self, client, message))
        except admission.Denied as error:
            client.refuse(error.kind, str(error))
        except ProtocolError as error:
            version = packets.peek_protocol(data)
            if version is not None and version != PROTOCOL_VERSION:
                client.refuse("protocol", _other_protocol(version))
            else:
                client.refuse("usage", str(error))
        finally:
            if not kept:
                packets.close_all(fds)

    # -- sessions ------------------------------------------------------------------------------------------------------
    def _hello(self, client: Client, hello: Hello, fds: list[int]) -> None:
        """Admit a function or let it wait for room. Owns `fds`."""
        try:
            if client in self._by_client or any(each.client is client for each in self._waiting):
                raise admission.Denied("usage", "this connection has said Hello before")
            if len(fds) not in (0, 2):
                raise admission.Denied("usage", "a Hello carries no descriptors, or stdout and stderr")
            try:
                self._admit(client, hello, fds)
            except admission.Denied as error:
                limit = self.config.limits.wait_seconds
                patience = limit if hello.wait_s < 0 else min(hello.wait_s, limit)
                if not error.later or patience <= 0 or len(self._waiting) >= self.config.limits.waiting:
                    raise
                self._wait_for_room(client, hello, fds, patience)
        except admission.Denied as error:
            packets.close_all(fds)
            self.refused += 1
            self.log.write("warning", f"pid {client.pid} was refused: {error}", uid=client.uid)
            client.refuse(error.kind, str(error))

    def _wait_for_room(self, client: Client, hello: Hello, fds: list[int], patience: float) -> None:
        def give_up() -> None:
            self._stop_waiting(waiting)
            packets.close_all(waiting.fds)
            client.refuse(
                "memory", f"no room within {patience:g} s: {format_size(hello.memory)} asked of {hello.device}"
            )

        waiting = _Waiting(client, hello, fds, self.loop.call_later(patience, give_up))
        self._waiting.append(waiting)
        self.log.write("info", f"pid {client.pid} waits for room, {len(self._waiting)} wait", uid=client.uid)

    def _stop_waiting(self, waiting: _Waiting) -> None:
        waiting.timer.cancel()
        self._waiting.remove(waiting)

    def _retry_waiting(self) -> None:
        for waiting in list(self._waiting):
            if waiting not in self._waiting or self._stopping:
                continue
            try:
                self._admit(waiting.client, waiting.hello, waiting.fds)
            except admission.Denied as error:
                if not error.later:
                    self._stop_waiting(waiting)
                    packets.close_all(waiting.fds)
                    waiting.client.refuse(error.kind, str(error))
            else:
                self._stop_waiting(waiting)

    def _admit(self, client: Client, hello: Hello, fds: list[int]) -> None:
        """Reserve, make the arena and start the executor. Closes `fds` on success, raises `Denied` otherwise."""
        session_id = secrets.token_hex(6)
        function_id = hello.function_id or secrets.token_hex(8)
        first, limit = segments.round_up(layout.HEAP_OFFSET + self.config.heap_bytes), self.config.limits.arena_bytes
        if self._arena_bytes(function_id) + first > limit:
            raise admission.Denied("busy", f"the arenas of this function's sessions would exceed {format_size(limit)}")
        granted = admission.admit(
            hello, client.uid, session_id, function_id, self.slices, self.ledgers, self.config, self.warm.waiting
        )
        session = Session(session_id, function_id, client.uid, hello, granted.slice, granted.quota)
        try:
            fd, size = segments.create_control_segment(session_id, self.config.heap_bytes)
            session.segment_fds.append(fd)
            session.segment_sizes.append(size)
            session.executor = self.warm.take(granted.slice)
            session.executor.adopt(
                lambda message, received: self._from_executor(session, message, received),
                lambda how: self._executor_ended(session, how),
            )
        except OSError as error:
            session.close()
            self.ledgers[granted.slice.name].release(function_id, session_id)
            raise admission.Denied("busy", f"the broker cannot start an executor: {error.strerror}") from error
        place, lease_fds = self._join_lease(session)
        account = self.ledgers[granted.slice.name].account(function_id)
        assert account is not None  # `admit` has just entered the session
        session.account_place = account.open_place(session_id)
        self.sessions[session_id] = session
        self.admitted += 1
        self._by_client[client] = session
        self._of_session[session_id] = client
        self.log.write(
            "info",
            f"session for pid {hello.pid} on {granted.slice.name} with {format_size(granted.quota)}",
            session_id,
            uid=client.uid,
        )
        session.executor.send(
            control.SessionSpec(
                protocol=PROTOCOL_VERSION,
                session_id=session_id,
                windows=hello.windows,
                segment_sizes=list(session.segment_sizes),
                quota=granted.quota,
                device="software" if granted.slice.kind == "software" else granted.slice.visible,
                owner_uid=client.uid,
                plugins=list(self.config.plugins),
                cache_dir=self.config.cache_dir,
                mode=self.leases[granted.slice.name].mode if lease_fds else "full_overlap",
                lease_place=place,
                kernel_seconds=self.config.patience(leased=bool(lease_fds)),
                account_place=session.account_place,
                stdio=bool(fds),
                handles=self.config.limits.handles,
                modules=self.config.limits.modules,
                kernels=self.config.limits.kernels,
            ),
            [*session.segment_fds, *lease_fds, account.fd, *fds],
        )
        packets.close_all(fds)
        patience = self.config.limits.start_seconds
        session.overdue = self.loop.call_later(patience, lambda: self._start_overdue(session))

    def _join_lease(self, session: Session) -> tuple[int, list[int]]:
        """Enter a session in its slice's lease; returns its place and the page's descriptor, or -1 and none."""
        lease = self.leases.get(session.slice.name)
        if lease is None:
            return -1, []
        bell = segments.ExecutorBell(session.segment_fds[0])

        def hang(seconds: float) -> None:
            self.lose(session, f"launch timeout: nothing it computes made progress for {seconds:.0f} s")

        hello = session.hello
        claim = Claim(
            session.session_id,
            session.function_id,
            priority=max(LEAST_PRIORITY, min(hello.priority, self.config.max_priority)),
            deadline_ns=max(0, min(hello.deadline_ms, LONGEST_DEADLINE_MS)) * 1_000_000,
        )
        return lease.join(claim, bell.ring, hang), [lease.fd]

    def _start_overdue(self, session: Session) -> None:
        if session.state == "starting" and session.executor is not None:
            session.executor.kill(f"it was not ready after {self.config.limits.start_seconds:g} s")

    def _from_executor(self, session: Session, message: Message, fds: list[int]) -> None:
        if isinstance(message, Give | Take | Withdraw):
            self._share(session, message, fds)
            return
        packets.close_all(fds)  # with nothing else has an executor any to give
        client = self._of_session.get(session.session_id)
        if isinstance(message, control.Report | control.TraceEvents):
            session.asked.discard(type(message))
        if isinstance(message, control.Ready) and session.state == "starting":
            try:
                admission.check_windows(message.windows)
            except admission.Denied as error:
                session.failure = str(error)
                self._kill(session, str(error))
                return
            session.state = "running"
            if session.overdue is not None:
                session.overdue.cancel()
            if client is not None:
                self._welcome(session, client, message)
        elif isinstance(message, control.Failed):
            session.failure = message.reason[:1000]
            self._kill(session, "")
        elif isinstance(message, control.Report):
            session.counters = dict(list(message.counters.items())[:MAX_COUNTERS]) | {"quota_bytes": session.quota}
        elif isinstance(message, control.Note):
            self.log.write(message.level, message.text, session.session_id, uid=session.uid)
        elif isinstance(message, control.TraceEvents):
            session.keep(message.events)
        elif isinstance(message, control.LeaseChanged):
            if session.slice.name in self.leases:
                self.leases[session.slice.name].observe()
        elif isinstance(message, control.SegmentMapped) and session.growing:
            self._grown(session, client, message)
        else:
            self._kill(session, f"it sent {type(message).__name__} out of turn")

    def _share(self, session: Session, message: Give | Take | Withdraw, fds: list[int]) -> None:
        """An executor gives what its function shares, or asks for what another's shared."""
        if session.state != "running":
            packets.close_all(fds)  # it is about to go
            return
        try:
            self.shares.handle(session, message, fds)
        except ProtocolError as error:
            self._kill(session, str(error))

    def _welcome(self, session: Session, client: Client, ready: control.Ready) -> None:
        account = self.ledgers[session.slice.name].account(session.function_id)
        assert account is not None  # it lives as long as its sessions
        # Opened anew for reading only: the function sees what its other sessions use, their executors write it.
        readable = os.open(f"/proc/self/fd/{account.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            client.send(
                control.Welcome(
                    protocol=PROTOCOL_VERSION,
                    session_id=session.session_id,
                    function_id=session.function_id,
                    windows=ready.windows,
                    segment_sizes=list(session.segment_sizes),
                    device=msgspec.structs.replace(ready.device, card=self._cards.of(session.slice)),
                    quota=session.quota,
                    account_place=session.account_place,
                ),
                [*session.segment_fds, readable],
            )
        finally:
            os.close(readable)

    def _arena_bytes(self, function_id: str) -> int:
        """Return the shared memory that a function's sessions have, which the driver pins."""
        return sum(each.arena_bytes for each in self.sessions.values() if each.function_id == function_id)

    def _grow(self, client: Client, message: control.GrowArena) -> None:
        session = self._by_client.get(client)
        if session is None or session.state != "running" or session.executor is None:
            raise admission.Denied("usage", "GrowArena before Welcome")
        size = segments.round_up(message.size)
        limit = self.config.limits.arena_bytes
        if message.size <= 0:
            client.send(control.Grown(0, "a segment has a positive size"))
        elif session.arena_bytes + size > session.hello.windows.arena_size:
            client.send(control.Grown(0, f"the arena would exceed {format_size(session.hello.windows.arena_size)}"))
        elif self._arena_bytes(session.function_id) + size > limit:
            client.send(control.Grown(0, f"the function's arenas would exceed {format_size(limit)}"))
        else:
            number = len(session.segment_fds) + len(session.growing)
            try:
                fd = segment.create(f"migproxy-{session.session_id}-{number}", size)
            except OSError as error:
                client.send(control.Grown(0, f"no shared memory: {error.strerror}"))
                return
            session.growing.append((fd, size))
            session.executor.send(control.MapSegment(size), [fd])

    def _grown(self, session: Session, client: Client | None, message: control.SegmentMapped) -> None:
        fd, size = session.growing.pop(0)
        if message.reason:
            os.close(fd)
            if client is not None:
                client.send(control.Grown(0, message.reason[:1000]))
            return
        session.segment_fds.append(fd)
        session.segment_sizes.append(size)
        if client is not None:
            client.send(control.Grown(size), [fd])

    # -- what executors really use -------------------------------------------------------------------------------------
    def _check_usage(self) -> None:
        self._usage.look(self._users_of)
        self.loop.call_later(self.config.usage_seconds, self._check_usage)

    def _users_of(self, name: str) -> list[Used]:
        return [
            Used(each.session_id, each.function_id, each.executor.pid, each.quota)
            for each in self.sessions.values()
            if each.slice.name == name and each.state == "running" and each.executor is not None
        ]

    def _over_quota(self, session_id: str, reason: str) -> None:
        session = self.sessions.get(session_id)
        if session is not None:
            self.lose(session, reason)

    # -- ends ----------------------------------------------------------------------------------------------------------
    def _kill(self, session: Session, reason: str) -> None:
        if session.executor is not None:
            session.executor.kill(reason)

    def lose(self, session: Session, reason: str) -> None:
        """End a session whose function still runs; it sees `Lost`."""
        session.failure = session.failure or reason
        self._kill(session, reason)

    def _end(self, session: Session) -> None:
        """The function is gone: let its executor report and go."""
        if session.executor is None:
            return
        if session.state == "running":
            session.state = "ending"
            session.executor.end(control.EndSession(), self.config.limits.end_seconds)
        elif session.state == "starting":
            session.state = "ending"
            session.executor.kill("its function is gone")

    def _executor_ended(self, session: Session, how: str) -> None:
        before, session.state = session.state, "ended"
        self.shares.leave(session)
        del self.sessions[session.session_id]
        client = self._of_session.pop(session.session_id, None)
        reason = session.failure or f"the executor is gone: {how}"
        if client is not None:
            self._by_client.pop(client, None)
            self.log.write("error", reason, session.session_id, uid=session.uid)
            if before == "starting":
                client.refuse("device", f"no session on {session.slice.name}: {reason}")
            else:
                # The header first: a function that spins on a reply sees it at once, before it reads its socket.
                with contextlib.suppress(OSError):
                    segments.mark_lost(session.segment_fds[0])
                client.send(control.Lost(reason))
                client.close()
        else:
            self.log.write("info", f"session ended; {how}", session.session_id, uid=session.uid)
        if session.slice.name in self.leases:
            self.leases[session.slice.name].leave(session.session_id)
        session.close()
        self.reports.add(session)
        self.ledgers[session.slice.name].release(session.function_id, session.session_id)
        self.warm.look_later()
        self._retry_waiting()


def _other_protocol(version: int) -> str:
    try:
        admission.check_protocol(version)
    except admission.Denied as error:
        return str(error)
    raise AssertionError("only called for another version")


def _listen(path: str, *, open_to_others: bool) -> tuple[int, socket.socket]:
    """Return a lock that keeps others off `path`, and a listening socket there.

    Raises
    ------
    UsageError
        Another broker has it, or no socket can be made there.
    """
    try:
        lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"no socket can be made at {path}: {error.strerror}") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise UsageError(f"{path} exists and is no socket")
            os.unlink(path)  # left behind: nobody holds the lock
        sock.bind(path)
        os.chmod(path, 0o666 if open_to_others else 0o600)
        sock.listen(128)
        sock.setblocking(False)
    except BlockingIOError:
        sock.close()
        os.close(lock)
        raise UsageError(f"another broker serves {path}") from None
    except OSError as error:
        sock.close()
        os.close(lock)
        raise UsageError(f"no socket can be made at {path}: {error.strerror or error}") from error
    except UsageError:
        sock.close()
        os.close(lock)
        raise
    return lock, sock
