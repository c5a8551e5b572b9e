"""What an executor gives up before it meets its tenant: the network, other processes, core dumps.

An executor is as hostile as its tenant, whose code the device driver parses. Another uid is the broker's to set
(`executor_uid`); this is what a process can take from itself, with or without privileges. It cannot be undone and is
inherited.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import struct
import sys

log = logging.getLogger("migproxy.executor")

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_AUDIT_ARCH_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
_SOCKET = 41
#: Local sockets only: drivers use them, and neither leaves the machine.
_FAMILIES = (1, 16)  # AF_UNIX, AF_NETLINK
#: Other processes, the kernel's own state, and ways round this filter, by x86-64 number.
_DENIED = {
    "ptrace": 101, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "init_module": 175,
    "delete_module": 176, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
    "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
    "pidfd_getfd": 438,
}  # fmt: skip
#: More than an executor needs: its tenant must not exhaust the host's.
_OPEN_FILES = 4096

# BPF instruction classes, as linux/filter.h has them.
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
# Offsets in struct seccomp_data.
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def build_filter() -> bytes:
    """Return the seccomp program: other architectures, network sockets and `_DENIED` fail with EPERM or EACCES."""
    deny = _instruction(_RETURN, _ERRNO | errno.EPERM)
    refuse = _instruction(_RETURN, _ERRNO | errno.EACCES)
    allow = _instruction(_RETURN, _ALLOW)
    program = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, _AUDIT_ARCH_X86_64, yes=1),
        deny,
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32_BIT, no=1),
        deny,
    ]
    for number in _DENIED.values():
        program += [_instruction(_EQUAL, number, no=1), deny]
    program += [_instruction(_EQUAL, _SOCKET, yes=1), allow, _instruction(_LOAD, _ARGUMENT)]
    for family in _FAMILIES:
        program += [_instruction(_EQUAL, family, no=1), allow]
    return b"".join([*program, refuse])


def confine() -> None:
    """Give up what an executor does not need. What cannot be given up here is logged, not ignored silently."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, _OPEN_FILES) if hard != resource.RLIM_INFINITY else _OPEN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if os.environ.get("CUDA_VISIBLE_DEVICES") and not os.path.exists("/dev/nvidia-uvm"):
        # The driver will run its setuid helper to make that node, which no_new_privs would forbid.
        log.warning("no system call filter: /dev/nvidia-uvm does not exist yet")
        return
    install_filter()


def install_filter() -> None:
    """Install the filter for this process and its children."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "seccomp is Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    program = build_filter()
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(buffer))
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        log.warning("no_new_privs is not possible here: %s", os.strerror(ctypes.get_errno()))
        return
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(described), zero, zero):
        log.warning("no system call filter is possible here: %s", os.strerror(ctypes.get_errno()))
