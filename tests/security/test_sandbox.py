"""What an executor cannot do, tried in a process that has confined itself as one."""

from __future__ import annotations

import os
import subprocess
import sys

from broker.broker_tools import ROOT

PROLOGUE = """
import ctypes, errno, os, resource, socket, threading
from migproxy.executor.sandbox import confine
confine()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(each) for each in arguments])
    return errno.errorcode.get(ctypes.get_errno(), "0") if result < 0 else "allowed"
"""


def confined(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code],
        env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_network() -> None:
    code = """
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_VSOCK):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
        print("open")
    except PermissionError:
        print("refused")
left, right = socket.socketpair()
left.send(b"local"); print(right.recv(5).decode())
"""
    assert confined(code).split() == ["refused"] * 4 + ["local"]


def test_no_other_processes_and_no_kernel_state() -> None:
    code = (
        "print(*[call(number, 0, 0, 0, 0, 0, 0) for number in (101, 310, 311, 321, 298, 165, 272, 308, 425, 438, 250)])"
    )
    assert set(confined(code).split()) == {"EPERM"}


def test_no_way_round_by_another_calling_convention() -> None:
    assert confined("print(call(0x40000000 + 41, 2, 1, 0))") == "EPERM"


def test_it_cannot_be_undone_and_is_inherited() -> None:
    code = """
pid = os.fork()
if pid == 0:
    command = "exec " + os.sys.executable + " -c 'import socket; socket.socket(socket.AF_INET)'"
    os.execv("/bin/sh", ["sh", "-c", command])
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert confined(code) == "1"


def test_no_core_dumps_and_few_files() -> None:
    code = "print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 4096)"
    assert confined(code) == "(0, 0) True"


def test_ordinary_work_goes_on() -> None:
    code = """
done = []
thread = threading.Thread(target=lambda: done.append(sum(range(1000))))
thread.start(); thread.join()
fd = os.memfd_create("x"); os.ftruncate(fd, 4096)
print(done, open("/proc/self/status").read().count("Seccomp:\\t2"))
"""
    assert confined(code) == "[499500] 1"


IMPORTS = """
import importlib
from migproxy_plugins.cupy import tables
for name in (*tables.SHORT_NAMES, "nvmath.bindings.cublas", "triton"):
    try:
        importlib.import_module(name)
        print(name, "imported")
    except Exception as error:
        print(name, type(error).__name__, error)
"""


def test_confinement_takes_no_library_away() -> None:
    """What an executor imports on a GPU loads, or is lacking, as it does in any process here."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) >= 10
    assert confined(IMPORTS) == done.stdout.strip()
