"""The kills of ``tools/measure_containment.py``: functions at random instants, executors at every step of a
command."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from migproxy.abi import control
from migproxy.cli.control import BrokerClient

SECURITY = Path(__file__).resolve().parent.parent / "tests" / "security"
#: A session may take so long to be gone.
SOON = 1.0

#: Where an executor dies; see tests/security/killing_executor.py.
STEPS = (
    *("start:spec", "start:mapped", "start:ready"),
    *("before:cuLaunchKernel", "after:cuLaunchKernel", "after:cuLaunchKernel:5"),
    *("before:cuMemcpyHtoDAsync", "after:cuMemcpyHtoDAsync", "before:cuMemcpyDtoHAsync", "after:cuMemcpyDtoHAsync"),
    *("before:cuEventRecord:3", "after:cuEventRecord:3", "after:cuEventRecord:8"),
    *("handler:MODULE_LOAD", "handled:MODULE_LOAD", "handler:MODULE_UNLOAD", "handled:MODULE_UNLOAD"),
    *("handler:MODULE_FUNCTION", "handled:MODULE_FUNCTION", "handler:MAP", "handled:MAP"),
    *("handler:STREAM_CREATE", "handled:STREAM_CREATE", "handler:STREAM_DESTROY"),
    *("handled:STREAM_DESTROY", "handler:EVENT_ELAPSED", "handled:EVENT_ELAPSED", "handled:CONTEXT_SYNC"),
    *("answering:half", "answering:half:3", "answering:done", "answering:done:3"),
    *("lease:put", "lease:put:2", "lease:put:3", "lease:put:4", "lease:put:5", "lease:put:6"),
    *("lease:swap", "lease:swap:2", "lease:swap:3"),
)


def rows(path: str) -> list[control.SessionRow]:
    """Return a broker's sessions."""
    client = BrokerClient(path)
    try:
        return client.ask(control.ListSessions(), control.Sessions).rows
    finally:
        client.close()


def ends_within(pid: int, seconds: float) -> bool:
    """Tell whether a process ends in time; one that only waits to be reaped has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def tenant(path: str, what: str) -> subprocess.Popen[str]:
    """Start tests/security/victim.py as a function."""
    command = [sys.executable, "-m", "migproxy", "run", "--broker", path, str(SECURITY / "victim.py"), what]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that its children end with it
    )


def end(process: subprocess.Popen[str]) -> str:
    """End a function if it still lives, and the children of a tenant; returns the last line of its errors."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    return (process.communicate(timeout=30)[1].splitlines() or ["no error told"])[-1]


# -- functions at random instants --------------------------------------------------------------------------------------
class Herd:
    """A function whose children are killed one after another."""

    def __init__(self, path: str, what: str = "fork") -> None:
        self.path = path
        self.process = tenant(path, what)
        self.pids: queue.Queue[int] = queue.Queue()
        self.ready: queue.Queue[int] = queue.Queue()
        self.wrong: list[str] = []
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(self.process.communicate()[1][-500:])
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = line.split()
            if words[0] == "wrong":
                self.wrong.append(line)
            (self.ready if words[0] == "ready" else self.pids).put(int(words[-1]))

    def child(self) -> int:
        """Start a child; returns its pid."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.pids.get(timeout=60)

    def wait_ready(self, pid: int) -> None:
        """Wait until a child computes."""
        try:
            while self.ready.get(timeout=120) != pid:
                pass
        except queue.Empty:
            end(self.process)
            assert self.process.stderr is not None
            raise RuntimeError(f"a child does not compute: {self.process.stderr.read()[-500:]}") from None


def kill_one(herd: Herd, chooser: random.Random, opening: float) -> tuple[bool, float, str, float]:
    """Kill a child: every other time while its session opens. Returns whether all is well, how long its session took
    to go, what was seen, and how long it took to open (0: it was killed before)."""
    pid, began, opened = herd.child(), time.monotonic(), 0.0
    if chooser.random() < 0.5:
        time.sleep(chooser.random() * opening)
    else:
        herd.wait_ready(pid)
        opened = time.monotonic() - began
        time.sleep(chooser.random() * 0.2)
    executors = [row.executor_pid for row in rows(herd.path) if row.pid == pid]
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    while any(row.pid == pid for row in rows(herd.path)):
        if time.monotonic() - killed > 20:
            return False, 20.0, "its session stays", opened
        time.sleep(0.005)
    took = time.monotonic() - killed
    if not all(ends_within(each, 1.0) for each in executors if each):
        return False, took, "its executor stays", opened
    if herd.wrong:
        return False, took, herd.wrong.pop().strip(), opened
    return took < SOON, took, "session, quota and lease returned", opened


def kill_functions(path: str, rounds: int, herds: int, until: float) -> tuple[int, int, float, set[str]]:
    """Kill functions at random instants; returns rounds made, how many went as they are to, the longest, what was seen.

    Parameters
    ----------
    path : str
        Socket of the broker.
    rounds : int
    herds : int
        How many die at the same time.
    until : float
        Stop at this time (``time.monotonic``), done or not.
    """
    lock, left, results = threading.Lock(), rounds, []
    opening = 1.0
    failures: list[str] = []

    def rounds_of(herd: Herd, chooser: random.Random) -> None:
        nonlocal left, opening
        while time.monotonic() < until:
            with lock:
                if not left:
                    return
                left -= 1
                if left % 50 == 0:
                    print(f"kills: {rounds - left}", file=sys.stderr, flush=True)
            result = kill_one(herd, chooser, opening)
            with lock:
                results.append(result)
                if not result[0]:
                    print(f"kills: {result}", file=sys.stderr, flush=True)
                if result[3]:
                    opening = 0.8 * opening + 0.2 * result[3] * 1.2

    def one(number: int) -> None:
        chooser = random.Random(number)
        while left and time.monotonic() < until:
            herd = Herd(path)
            try:
                rounds_of(herd, chooser)
            except (OSError, RuntimeError, queue.Empty) as error:  # the next herd goes on
                failures.append(f"{type(error).__name__}: {error}")
                print(f"kills: {failures[-1]}", file=sys.stderr, flush=True)
            finally:
                end(herd.process)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(herds)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    right = sum(good for good, _, _, _ in results)
    seen = {words for _, _, words, _ in results} | set(failures)
    return len(results) + len(failures), right, max((took for _, took, _, _ in results), default=0.0), seen


# -- executors at every step -------------------------------------------------------------------------------------------
class KillingBroker:
    """A broker whose executors die where the plan says, and a bystander on it."""

    def __init__(self, device: str) -> None:
        scratch = tempfile.mkdtemp()
        self.path, self.plan = os.path.join(scratch, "b.sock"), Path(scratch) / "plan"
        self.plan.touch()
        command = [sys.executable, str(SECURITY / "killing_broker.py"), self.path, device, str(self.plan)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        if "serves on" not in self.process.stderr.readline():
            raise RuntimeError("the broker does not start")
        self.bystander = tenant(self.path, "tour")
        assert self.bystander.stdout is not None
        self.bystander.stdout.readline()

    def die_at(self, step: str) -> tuple[bool, float, str]:
        """Have the next executor die at a step; returns whether its function saw what it is to see, after how many
        seconds, and its words."""
        self.plan.write_text(step)
        victim = tenant(self.path, "tour")
        try:
            assert victim.stdout is not None
            timer = threading.Timer(60.0, victim.kill)
            timer.start()
            words = ["ready"]
            while words == ["ready"]:
                words = victim.stdout.readline().split()
            timer.cancel()
            died = self.plan.read_text().split()
            gone = not [row for row in rows(self.path) if row.pid == victim.pid]
        finally:
            told = end(victim)
        if len(words) < 3 or len(died) < 2:
            return False, 60.0, f"{step}: {' '.join(words)}, {told}"
        took = float(words[-1]) - float(died[1])
        # Before there is a session there is none to be lost: then it could not be opened.
        right = words[-2] == ("UsageError" if step.startswith("start:") else "SessionLost")
        return right and took < SOON and gone and self.bystander.poll() is None, took, " ".join(words[:-1])

    def close(self) -> None:
        """Stop everything."""
        end(self.bystander)
        self.process.terminate()
        self.process.communicate(timeout=30)


def kill_executors(device: str, until: float, report: Callable[[str], None]) -> tuple[int, int, float, set[str]]:
    """Kill an executor at each step; returns as `kill_functions` does."""
    broker = KillingBroker(device)
    made = right = 0
    longest, seen = 0.0, set()
    try:
        for step in STEPS:
            if time.monotonic() > until:
                break
            good, took, words = broker.die_at(step)
            report(f"{step}: {words}, {took:.3f} s{'' if good else ' - not as it is to be'}")
            made, right, longest = made + 1, right + good, max(longest, took)
            seen.add(words if good else f"{step}: {words}")
    finally:
        broker.close()
    return made, right, longest, seen
