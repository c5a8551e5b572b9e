"""The lives of executors: one process per session, told what to serve, watched, ended, and never outliving the
broker."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from migproxy.abi.control import Message
from migproxy.arena import packets
from migproxy.broker.loop import Loop, Timer
from migproxy.device.inventory import Slice
from migproxy.errors import ProtocolError, SessionLost
from migproxy.python_path import python_path

#: What an executor keeps of the broker's environment. CUDA's own variables pass, except for device choice.
_KEEP = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_PATH",
    "CUDA_HOME",
    "XDG_CACHE_HOME",
)

#: How much of what an executor wrote to stderr before it had a session is kept for the log.
_EARLY = 4096
#: How long an executor may live on after it closed its control socket.
_CLOSED_GRACE = 1.0


def executor_environment(
    chosen: Slice,
    base: Mapping[str, str],
    plugins: Sequence[str] = (),
    *,
    open_first: bool = False,
    several_owners: bool = False,
) -> dict[str, str]:
    """Return the environment of an executor: little of the broker's, nothing of the function's.

    `plugins` are those that it may prepare for before its session comes; `open_first` lets it open its device then, and
    with `several_owners` that driver keeps no code in files: whose they would be is not known yet.
    """
    env = {name: base[name] for name in _KEEP if name in base}
    # The software GPU's settings are the broker's owner's, as the choice of device is.
    env |= {name: base[name] for name in base if name.startswith("MIGPROXY_SOFTGPU") or name == "MIGPROXY_CACHE_DIR"}
    env["CUDA_VISIBLE_DEVICES"] = chosen.visible
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    env["MIGPROXY_PRELOAD"] = ",".join(plugins)
    env["MIGPROXY_OPEN_FIRST"] = str(int(open_first))
    if open_first and several_owners:
        env["CUDA_CACHE_DISABLE"] = "1"
    env["PYTHONPATH"] = python_path(base.get("PYTHONPATH", ""))
    return env


def default_command() -> tuple[str, ...]:
    """Return the command line that starts an executor. ``-P``: the working directory is not searched for modules."""
    return (sys.executable, "-P", "-m", "migproxy.executor")


class Executor:
    """One executor process, as the broker sees it.

    Parameters
    ----------
    loop : Loop
        Where its messages and its end are watched for.
    command : sequence of str
        How to start it.
    chosen : Slice
        Its slice.
    uid : int
        Run it as this uid and gid; 0: as the broker's own.
    plugins : sequence of str
        What it may prepare for while it waits.
    open_first : bool
        It may open its device before it has a session.
    several_owners : bool
        Functions of other users than the broker's may come.

    It starts without a session and with its stderr kept for the log; `adopt` gives it to a session.
    """

    def __init__(
        self,
        loop: Loop,
        command: Sequence[str],
        chosen: Slice,
        uid: int = 0,
        plugins: Sequence[str] = (),
        open_first: bool = False,
        several_owners: bool = False,
    ) -> None:
        self._loop = loop
        self._on_message: Callable[[Message, list[int]], None] = ignore_message
        self._on_end: Callable[[str], None] = _nobody_cares
        self._early = os.memfd_create("migproxy-executor-stderr", os.MFD_CLOEXEC)
        self._kill_timer: Timer | None = None
        self._reason = ""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [*command, "--control-fd", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._early,
                env=executor_environment(
                    chosen, os.environ, plugins, open_first=open_first, several_owners=several_owners
                ),
                cwd="/",
                pass_fds=(theirs.fileno(),),
                user=uid or None,
                group=uid or None,
                extra_groups=[] if uid else None,
                start_new_session=True,  # a Ctrl-C in the function's terminal is the function's alone
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._socket.close()
            os.close(self._early)
            raise OSError(getattr(error, "errno", 0) or 0, f"executor not started: {error}") from error
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._socket.setblocking(False)
        self._pidfd = os.pidfd_open(self.pid)
        self._open = True
        loop.watch(self._socket.fileno(), self._readable)
        loop.watch(self._pidfd, self._ended)

    def adopt(self, on_message: Callable[[Message, list[int]], None], on_end: Callable[[str], None]) -> None:
        """Give it to a session.

        Parameters
        ----------
        on_message : callable
            Gets each message and its descriptors.
        on_end : callable
            Gets one line that says how the process ended, once it was reaped.
        """
        self._on_message = on_message
        self._on_end = on_end

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message; an executor that does not take its messages is killed."""
        if not self._open:
            return
        try:
            packets.send(self._socket, message, fds)
        except BlockingIOError:
            self.kill("it does not read its control socket")
        except SessionLost:
            pass  # its end is about to be seen

    def end(self, message: Message, grace: float) -> None:
        """Ask it to end, and kill it if it has not after `grace` seconds."""
        self.send(message)
        if self._kill_timer is None:
            self._kill_timer = self._loop.call_later(grace, self.kill)

    def kill(self, reason: str = "") -> None:
        """End it at once; `reason` says why, for `on_end`."""
        self._reason = self._reason or reason
        # Not reaped yet while the pidfd is open, so that the number cannot be another process's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _readable(self) -> None:
        try:
            message, fds = packets.receive(self._socket, "supervisor")
        except (BlockingIOError, InterruptedError):
            return
        except SessionLost:
            self._close_socket()
            if self._kill_timer is None:  # usually it is just exiting
                self._kill_timer = self._loop.call_later(
                    _CLOSED_GRACE, lambda: self.kill("it closed its control socket")
                )
            return
        except ProtocolError as error:
            self._close_socket()
            self.kill(f"it sent nonsense: {error}")
            return
        self._on_message(message, fds)

    def _close_socket(self) -> None:
        if self._open:
            self._open = False
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _ended(self) -> None:
        # Messages it sent before its end still count: its report among them.
        while self._open:
            try:
                message, fds = packets.receive(self._socket, "supervisor")
            except (BlockingIOError, InterruptedError, SessionLost, ProtocolError):
                break
            self._on_message(message, fds)
        self._close_socket()
        self._loop.unwatch(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        said = os.pread(self._early, _EARLY, max(0, os.fstat(self._early).st_size - _EARLY)).decode(errors="replace")
        os.close(self._early)
        last = said.strip().splitlines()[-1:] if code else []
        self._on_end(self._reason or ": ".join([describe_exit(code), *last]))


def ignore_message(message: Message, fds: list[int]) -> None:
    """What an executor says before it has a session is of no interest."""
    packets.close_all(fds)


def _nobody_cares(how: str) -> None:
    """The warm pool notices by itself."""


def describe_exit(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"it exited with code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"
