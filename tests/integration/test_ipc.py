"""CUDA IPC between functions of one owner, through one broker: on the software GPU, and on a real one with `-m gpu`."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migproxy.abi import control
from migproxy.arena import packets

ROOT = str(Path(__file__).resolve().parents[2])
ENV = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY")} | {
    "PYTHONPATH": ROOT,
    "PYTHONWARNINGS": "ignore::DeprecationWarning",  # of a fork with threads, which some of them do on purpose
}
#: A function whose code is what it reads, with what every one of them needs.
COMMON = """
import ctypes, os, sys
from migproxy.errors import CudaError
from migproxy.session import api
api.init(); api.ensure_context()

def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
def put(pointer, data):
    buffer = ctypes.create_string_buffer(data, len(data))
    api.memcpy_htod(pointer, ctypes.addressof(buffer), len(data))
    api.context_synchronize()  # it may still be on its way, and another function does not wait for it
def get(pointer, size):
    buffer = ctypes.create_string_buffer(size)
    api.memcpy_dtoh(ctypes.addressof(buffer), pointer, size)
    return buffer.raw
def status(function, *arguments):
    try: function(*arguments)
    except CudaError as error: return error.status
    return 0
"""
GIVER = (
    COMMON
    + """
size = 5 << 20
pointer = api.mem_alloc(size)
api.memset(pointer, 7, 1, size)
api.context_synchronize()
handle = api.ipc_memory_handle(pointer + 12345)
assert handle == api.ipc_memory_handle(pointer) and len(handle) == 64
event = api.event_create(6)
say(handle.hex(), api.ipc_event_handle(event).hex())
"""
)
TAKER = (
    COMMON
    + """
handle, event_handle = (bytes.fromhex(each) for each in sys.argv[1:])
"""
)


#: What a hostile function tries with the handles that it was given; it leaves nothing open.
NONSENSE = """
from migproxy.abi.ops import Op
from migproxy.session.session import current
for wrong in (b"", bytes(64), handle[:-1], handle[:16] + bytes(48), event_handle, os.urandom(64)):
    assert status(api.ipc_open_memory, wrong) == 1, wrong
assert status(api.ipc_open_event, handle) == 1
assert status(api.ipc_open_event, event_handle[:16] + bytes(48)) == 1
for _ in range(500):
    assert status(api.ipc_open_memory, handle[:16] + os.urandom(32) + bytes(16)) == 1
place = api.ipc_open_memory(handle)
for _ in range(100_000):
    assert api.ipc_open_memory(handle) == place
host = api.host_alloc(100)
for wrong in (0, 1, host, place, place + 100):
    assert status(api.ipc_memory_handle, wrong) == 1, wrong
assert status(api.ipc_event_handle, 5) == 400 and status(api.ipc_event_handle, api.event_create(2)) == 400
session = current()
for op in (Op.IPC_CLOSE_MEMORY, Op.IPC_GIVE_EVENT):
    assert status(session.call, op, b"12345678") in (1, 400)
assert status(session.call, Op.IPC_GIVE_MEMORY, bytes(16)) == 1
session.post(Op.IPC_WITHDRAW, b"12345678")
for _ in range(100_001):
    api.ipc_close_memory(place)
assert status(api.ipc_close_memory, place) == 1
"""


class Functions:
    """A broker and the functions that it serves."""

    def __init__(self, folder: Path, device: str, *options: str) -> None:
        self.folder = folder
        self.path = str(folder / "b.sock")
        self.broker = subprocess.Popen(
            [sys.executable, "-m", "migproxy", "broker", "--socket", self.path, "--device", device,
             "--default-memory", "1GiB", *options],
            env=ENV, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.broker.stderr is not None
        assert "serves on" in self.broker.stderr.readline()
        self.started: list[subprocess.Popen[str]] = []
        self._numbers = itertools.count()

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a function."""
        script = self.folder / f"f{next(self._numbers)}.py"
        script.write_text(code)
        function = subprocess.Popen(
            [sys.executable, "-m", "migproxy", "run", "--broker", self.path, str(script), *arguments],
            env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(function)
        return function

    def executor_of(self, function: subprocess.Popen[str]) -> int:
        """Return the executor's process of a function."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(self.path)
            packets.send(sock, control.ListSessions())
            answer, _ = packets.receive(sock, "client")
        assert isinstance(answer, control.Sessions)
        return next(row.executor_pid for row in answer.rows if row.pid == function.pid)

    def end_all(self) -> None:
        for function in self.started:
            with contextlib.suppress(ProcessLookupError):
                function.kill()
            for stream in (function.stdin, function.stdout, function.stderr):
                assert stream is not None
                stream.close()
            function.wait(10.0)
        self.started.clear()

    def close(self) -> None:
        self.end_all()
        self.broker.terminate()
        self.broker.communicate(timeout=20.0)


def line(function: subprocess.Popen[str]) -> str:
    """Return what a function says next."""
    assert function.stdout is not None
    said = function.stdout.readline()
    if not said:
        assert function.stderr is not None
        raise AssertionError(function.stderr.read())
    return said.strip()


def tell(function: subprocess.Popen[str], word: str = "go") -> None:
    """Have a function go on."""
    assert function.stdin is not None
    function.stdin.write(word + "\n")
    function.stdin.flush()


def end(function: subprocess.Popen[str]) -> None:
    """Wait for a function's end in order."""
    out, err = function.communicate(timeout=60.0)
    assert (function.returncode, err) == (0, ""), out + err


@pytest.fixture(scope="module", params=["software", pytest.param("0", marks=pytest.mark.gpu)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Functions]:
    software = ("--software-memory", "4GiB") if request.param == "software" else ()
    folder = tmp_path_factory.mktemp("ipc")
    (folder / "broker.toml").write_text("allow_all = true\n")
    made = Functions(folder, request.param, "--config", str(folder / "broker.toml"), *software)
    yield made
    made.close()
    assert made.broker.returncode == 0


@pytest.fixture
def functions(served: Functions) -> Iterator[Functions]:
    """One broker serves all tests; the functions of one are gone before the next."""
    yield served
    served.end_all()


def test_two_functions_use_one_allocation(functions: Functions) -> None:
    giver = functions.start(
        GIVER
        + """
assert status(api.ipc_open_memory, handle) == 201 and status(api.ipc_open_event, api.ipc_event_handle(event)) == 201
hear()
assert get(pointer, 4) == b"back" and get(pointer + size - 3, 3) == b"end"
api.mem_free(pointer)
again = api.mem_alloc(size)
say(api.ipc_memory_handle(again).hex()); hear()
"""
    )
    handles = line(giver).split()
    taker = functions.start(
        TAKER
        + NONSENSE
        + """
free = api.mem_get_info()[0]
place = api.ipc_open_memory(handle)
assert api.ipc_open_memory(handle) == place
assert api.mem_address_range(place + 5) == (place, 5 << 20)
assert api.pointer_facts(place).memory_type == 2
assert api.mem_get_info()[0] <= free - (5 << 20)
assert get(place, 5 << 20) == b"\\x07" * (5 << 20)
put(place, b"back"); put(place + (5 << 20) - 3, b"end")
assert status(api.mem_free, place) == 1 and status(api.ipc_memory_handle, place) == 1
assert status(api.memcpy_dtoh, place, place + (5 << 20) - 1, 2) != 0
say("written"); hear()
api.memset(place, 3, 1, 100)
assert get(place, 1) == b"\\x03"  # it lives here until it is closed
api.ipc_close_memory(place)
assert get(place, 1) == b"\\x03"
api.ipc_close_memory(place)
assert status(api.ipc_close_memory, place) == 1 and status(get, place, 1) == 1
assert api.mem_get_info()[0] > free - (5 << 20)
assert status(api.ipc_open_memory, handle) == 1  # it was freed there
new = api.ipc_open_memory(bytes.fromhex(hear()))
pid = os.fork()
if not pid:
    child = status(api.ipc_close_memory, new), status(get, new, 1)
    os._exit(0 if child == (3, 3) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
api.memset(new, 4, 1, 8)
assert get(new, 1) == b"\\x04"
say("done")
""",
        *handles,
    )
    assert line(taker) == "written"
    tell(giver)
    again = line(giver)
    assert again != handles[0]
    tell(taker)
    tell(taker, again)
    assert line(taker) == "done"
    tell(giver)
    end(giver)
    end(taker)


@pytest.mark.parametrize("killed", ["giver", "taker"])
def test_either_side_may_be_killed(functions: Functions, killed: str) -> None:
    giver = functions.start(GIVER + "hear(); assert get(pointer, 3) == b'xyz'; say('fine')")
    handles = line(giver).split()
    open_ = (
        "place = api.ipc_open_memory(handle); event = api.ipc_open_event(event_handle)\n"
        "put(place, b'xyz')\nsay('open'); hear()\n"
    )
    taker = functions.start(
        TAKER + open_ + "assert get(place, 4) == b'xyz\\x07'; api.event_synchronize(event); api.event_destroy(event)\n"
        "api.ipc_close_memory(place); assert status(get, place, 1) == 1; say('fine')",
        *handles,
    )
    assert line(taker) == "open"
    gone, other = (giver, taker) if killed == "giver" else (taker, giver)
    os.kill(gone.pid, signal.SIGKILL)
    gone.wait(10.0)
    tell(other)
    assert line(other) == "fine"
    end(other)
    until_nothing_is_left(functions)
    if killed == "giver":
        late = functions.start(
            TAKER + "say(status(api.ipc_open_memory, handle), status(api.ipc_open_event, event_handle))", *handles
        )
        assert line(late) == "1 1"
        end(late)


def until_nothing_is_left(functions: Functions) -> None:
    """Wait until the broker has ended all sessions and keeps no descriptors of device memory."""
    links = Path(f"/proc/{functions.broker.pid}/fd")

    def left() -> list[str]:
        names = []
        for link in links.iterdir():
            with contextlib.suppress(OSError):
                names.append(os.readlink(link))
        return [name for name in names if "device-memory" in name or "migproxy-event" in name or "account" in name]

    deadline = time.monotonic() + 20.0
    while left():
        assert time.monotonic() < deadline, left()
        time.sleep(0.01)


def test_an_executor_that_is_killed_takes_nobody_along(functions: Functions) -> None:
    giver = functions.start(GIVER + "hear()")
    handles = line(giver).split()
    taker = functions.start(
        TAKER + "place = api.ipc_open_memory(handle); say('open'); hear(); say(get(place, 2).hex())", *handles
    )
    assert line(taker) == "open"
    os.kill(functions.executor_of(giver), signal.SIGKILL)
    tell(taker)
    assert line(taker) == "0707"
    end(taker)


def test_a_stream_waits_for_another_functions_event(functions: Functions) -> None:
    giver = functions.start(
        GIVER
        + """
import threading
stream = api.stream_create(1)
gate = threading.Event()
api.stream_add_host_function(stream, gate.wait)
api.memset(pointer, 9, 1, size, stream)
api.event_record(event, stream)
say("recorded"); hear(); gate.set(); hear()
"""
    )
    handles = line(giver).split()
    assert line(giver) == "recorded"
    taker = functions.start(
        TAKER
        + """
place, event = api.ipc_open_memory(handle), api.ipc_open_event(event_handle)
assert status(api.event_query, event) == 600
mine = api.mem_alloc(100)
stream = api.stream_create(1)
api.stream_wait_event(stream, event)
api.memcpy_dtod(mine, place, 100, stream)
say("waits")
api.stream_synchronize(stream)
assert get(mine, 100) == b"\\x09" * 100
assert status(api.event_query, event) == 0
api.event_synchronize(event)
api.event_destroy(event)
say("done")
""",
        *handles,
    )
    assert line(taker) == "waits"
    tell(giver)
    assert line(taker) == "done"
    tell(giver)
    end(taker)
    end(giver)


#: Nobody else than root may read this interpreter, perhaps, so all is loaded before the owner changes.
OTHER_OWNER = """
import os, sys
from migproxy.errors import CudaError
from migproxy.session import api, session
api.init(); api.ensure_context()
session.close_current()
del os.environ["MIGPROXY_FUNCTION"]
owner = int(sys.argv[1])
os.setgid(owner); os.setuid(owner)
api.ensure_context()
answers = []
for open_, handle in ((api.ipc_open_memory, sys.argv[2]), (api.ipc_open_event, sys.argv[3])):
    try:
        open_(bytes.fromhex(handle))
        answers.append(0)
    except CudaError as error:
        answers.append(error.status)
print(os.getuid(), *answers)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another owner")
def test_another_owner_gets_nothing(functions: Functions) -> None:
    giver = functions.start(GIVER + "hear()")
    handles = line(giver).split()
    functions.folder.chmod(0o711)
    environment = ENV | {"MIGPROXY_BROKER": "b.sock", "MIGPROXY_MEMORY": "512MiB"}
    command = [sys.executable, "-c", OTHER_OWNER, "65534", *handles]
    done = subprocess.run(command, env=environment, cwd=functions.folder, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("65534 1 1\n", 0), done.stdout + done.stderr
    tell(giver)
    end(giver)
