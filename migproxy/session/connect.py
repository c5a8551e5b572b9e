"""The function's connection to a broker: finding one, starting a private one, and the first two messages."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from migproxy.abi.control import Hello, Message, Refused, Welcome, Windows
from migproxy.abi.protocol import PROTOCOL_VERSION
from migproxy.arena import packets
from migproxy.arena.account import QuotaAccount
from migproxy.errors import AdmissionError, ProtocolError, SessionLost, UnsupportedVersion, UsageError
from migproxy.sizes import parse_size

BROKER_VARIABLE = "MIGPROXY_BROKER"
MEMORY_VARIABLE = "MIGPROXY_MEMORY"
DEVICE_VARIABLE = "MIGPROXY_DEVICE"
FUNCTION_VARIABLE = "MIGPROXY_FUNCTION"
PRIORITY_VARIABLE = "MIGPROXY_PRIORITY"
DEADLINE_VARIABLE = "MIGPROXY_DEADLINE_MS"
ACTIVE_VARIABLE = "MIGPROXY_ACTIVE"
SYSTEM_SOCKET = "/run/migproxy/broker.sock"
#: How long a broker may take to listen, and to answer a Hello (it may make the function wait for room).
START_SECONDS = 60.0
ANSWER_SECONDS = 300.0


class Connection(NamedTuple):
    """An admitted session.

    Attributes
    ----------
    welcome : Welcome
        What the broker granted.
    segment_fds : list of int
        The arena's descriptors, the control segment first; the caller owns them.
    socket : socket.socket
        The control socket, blocking.
    account : QuotaAccount, optional
        What the other sessions of this function use of its quota.
    """

    welcome: Welcome
    segment_fds: list[int]
    socket: socket.socket
    account: QuotaAccount | None = None


send = packets.send


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """Receive one message of the broker and its descriptors. See `migproxy.arena.packets.receive`."""
    return packets.receive(sock, "function")


def user_socket(env: Mapping[str, str]) -> str:
    """Return where a user's own broker listens."""
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return os.path.join(runtime, "migproxy", "broker.sock")


def _answers(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(5.0)
            sock.connect(path)
    except OSError:
        return False
    return True


def find_broker(env: Mapping[str, str] | None = None, explicit: str = "") -> str:
    """Return the path of the broker's socket to use; empty: there is none, start a private one.

    In this order: `explicit` (``--broker``), the environment's MIGPROXY_BROKER, the user's socket, the system's
    socket. The
    first two must answer if they are given.

    Raises
    ------
    UsageError
        A broker was named and does not answer.
    """
    for path, origin in broker_places(env, explicit):
        if _answers(path):
            return path
        if origin:
            raise UsageError(f"no broker answers at {path} (from {origin})")
    return ""


def broker_places(env: Mapping[str, str] | None = None, explicit: str = "") -> Iterator[tuple[str, str]]:
    """Return where a broker may listen, in order, and by what it was named; a named one is the last."""
    env = os.environ if env is None else env
    for path, origin in ((explicit, "--broker"), (env.get(BROKER_VARIABLE, ""), BROKER_VARIABLE)):
        if path:
            yield path, origin
            return
    yield user_socket(env), ""
    yield SYSTEM_SOCKET, ""


def private_directory(env: Mapping[str, str]) -> str:
    """Make a directory of this user's own for a private broker's socket. Socket paths are limited to 107 bytes."""
    import tempfile

    runtime = env.get("XDG_RUNTIME_DIR", "")
    parent = runtime if runtime and len(runtime) < 60 and os.access(runtime, os.W_OK | os.X_OK) else None
    made = tempfile.mkdtemp(prefix="migproxy-", dir=parent)
    if len(made) > 80:
        os.rmdir(made)
        made = tempfile.mkdtemp(prefix="migproxy-", dir="/tmp")
    return made


def start_private_broker(
    *, device: str = "auto", parent_pid: int | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Start a broker that ends with process `parent_pid` (this one if not given), and return its socket's path.

    Raises
    ------
    UsageError
        It cannot serve; the message is its own.
    """
    # What only a private broker needs is not part of every start.
    import fcntl
    import shutil
    import subprocess

    from migproxy.python_path import python_path

    env = dict(os.environ if env is None else env)
    directory = private_directory(env)
    path = os.path.join(directory, "broker.sock")
    for name in (ACTIVE_VARIABLE, BROKER_VARIABLE, FUNCTION_VARIABLE, MEMORY_VARIABLE, DEVICE_VARIABLE):
        env.pop(name, None)
    # What is installed where this process's PYTHONPATH says is for its broker too: executors import libraries there.
    env["PYTHONPATH"] = python_path(env.get("PYTHONPATH", ""))
    low = os.pipe()
    # Where standard streams are closed, a pipe takes their numbers.
    read_end, write_end = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in low)
    for end in low:
        os.close(end)
    try:
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-m", "migproxy.broker",
                "--socket", path, "--private", "--device", device,
                "--parent-pid", str(parent_pid or os.getpid()), "--ready-fd", str(write_end),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            pass_fds=(write_end,),
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        os.close(read_end)
        shutil.rmtree(directory, ignore_errors=True)
        raise UsageError(f"no private broker can be started: {error}") from error
    finally:
        os.close(write_end)
    # It forks once more and leaves this process, so that it is no child of the function.
    try:
        _, errors = process.communicate(timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        errors = b"it did not start in time"
    with os.fdopen(read_end, "rb") as ready:
        said = ready.read().decode(errors="replace").strip()
    if said != "ready":
        shutil.rmtree(directory, ignore_errors=True)
        last = errors.decode(errors="replace").strip().splitlines()
        raise UsageError(said or f"no private broker could be started: {last[-1] if last else 'it said nothing'}")
    return path


def broker_for_process() -> str:
    """Return the socket of the broker for this process: named, found, or a private one started now.

    A private one is entered in the environment, so that this process's children join it.
    """
    path = find_broker()
    if not path:
        path = start_private_broker(device=os.environ.get(DEVICE_VARIABLE) or "auto")
        os.environ[BROKER_VARIABLE] = path
    return path


def make_hello(windows: Windows, libraries: Mapping[str, str], env: Mapping[str, str] | None = None) -> Hello:
    """Return this process's Hello, with memory, device and function as the environment says."""
    env = os.environ if env is None else env
    memory = env.get(MEMORY_VARIABLE, "")
    return Hello(
        protocol=PROTOCOL_VERSION,
        pid=os.getpid(),
        memory=parse_size(memory) if memory else 0,
        device=env.get(DEVICE_VARIABLE, "") or "auto",
        windows=windows,
        libraries=dict(libraries),
        function_id=env.get(FUNCTION_VARIABLE, ""),
        program=_program(),
        priority=_whole_number(env, PRIORITY_VARIABLE),
        deadline_ms=_whole_number(env, DEADLINE_VARIABLE),
    )


def _whole_number(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "") or "0"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r}; it must be a whole number") from None


def _program() -> str:
    arguments = getattr(sys, "orig_argv", None) or sys.argv
    return " ".join(arguments)[:500]


def connect(
    path: str,
    hello: Hello,
    *,
    stdio: tuple[int, int] | None = (1, 2),
    meanwhile: Callable[[], object] = lambda: None,
) -> Connection:
    """Open a session with the broker at `path`.

    Parameters
    ----------
    path : str
        The broker's socket.
    hello : Hello
        See `make_hello`.
    stdio : tuple of int, optional
        Descriptors that the executor gets as its stdout and stderr, so that what kernels print reaches the function's.
    meanwhile : callable
        What can be done while the executor prepares itself.

    Raises
    ------
    UsageError
        Nobody answers at `path`, or the device or memory asked for cannot be had.
    UnsupportedVersion
        The broker speaks another protocol; the message names both.
    AdmissionError
        The broker refused the session for another reason.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(path)
        except OSError as error:
            raise UsageError(f"no broker answers at {path}: {error.strerror or error}") from error
        fds: list[int] = []
        try:
            # A refusal may already lie in the socket when the broker has closed it: then sending fails, reading does
            # not.
            with contextlib.suppress(SessionLost):
                packets.send(sock, hello, _usable(stdio))
            meanwhile()
            message, fds = _receive_answer(sock)
        except TimeoutError:
            raise AdmissionError(f"the broker at {path} did not answer within {ANSWER_SECONDS:g} s") from None
        except SessionLost as error:
            raise AdmissionError(f"the broker at {path} closed the connection: {error}") from error
        if isinstance(message, Refused):
            packets.close_all(fds)
            raise refusal(message)
        wanted = 0
        if isinstance(message, Welcome):
            wanted = len(message.segment_sizes) + (message.account_place >= 0)
        if not isinstance(message, Welcome) or len(fds) != wanted or not fds:
            packets.close_all(fds)
            raise ProtocolError(
                f"the broker at {path} answered Hello with {type(message).__name__} and {len(fds)} descriptors"
            )
        if message.protocol != PROTOCOL_VERSION:
            packets.close_all(fds)
            raise UnsupportedVersion(_mismatch(message.protocol))
    except BaseException:
        sock.close()
        raise
    sock.settimeout(None)
    account = None
    if message.account_place >= 0:
        account = QuotaAccount(fds.pop(), message.account_place, message.quota, writable=False)
    return Connection(message, fds, sock, account)


def _usable(stdio: tuple[int, int] | None) -> tuple[int, ...]:
    """Return the descriptors, or none if one of them is closed."""
    if stdio is None:
        return ()
    for fd in stdio:
        try:
            os.fstat(fd)
        except OSError:
            return ()
    return stdio


def _receive_answer(sock: socket.socket) -> tuple[Message, list[int]]:
    data, fds = packets.receive_raw(sock)
    try:
        return packets.decode(data, "function"), fds
    except ProtocolError:
        packets.close_all(fds)
        version = packets.peek_protocol(data)
        if version is not None and version != PROTOCOL_VERSION:
            raise UnsupportedVersion(_mismatch(version)) from None
        raise


def _mismatch(version: int) -> str:
    return (
        f"the broker speaks protocol {version}, the function speaks protocol {PROTOCOL_VERSION}; "
        "use the same migproxy version for both"
    )


def refusal(message: Refused) -> Exception:
    """Return the exception that a `Refused` means."""
    if message.kind in ("protocol", "version"):
        return UnsupportedVersion(message.reason)
    if message.kind in ("device", "memory", "usage"):
        return UsageError(message.reason)
    return AdmissionError(message.reason)
