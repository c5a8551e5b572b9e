"""The one exception tree of migproxy.

::

    MigproxyError                   anything migproxy raises on purpose
    ├── UsageError                  wrong use: one line says what was wrong and what would be right (exit code 2)
    │   └── UnsupportedVersion      a library outside the supported range; the message names the range
    ├── AdmissionError              the broker refused a session; the message carries its reason
    ├── SessionError                a session cannot go on
    │   ├── SessionLost             executor or broker died; every later call raises it at once
    │   └── ProtocolError           a malformed or refused command; the session was closed
    ├── CudaError                   a CUDA driver status (CUresult); front ends turn it into their library's own type
    ├── PluginError                 a plugin that is broken, refused or made for another interface version
    └── SoftGpuError                the software GPU cannot do what was asked
        ├── PtxError                PTX that cannot be compiled: the text and its line
        └── KernelFault             a kernel that failed while it ran: illegal address, trap, assert, limit

Who catches what: front ends (``plugins/*``) catch `CudaError` and `SessionError` and raise the library's own type with
the original as ``__cause__``; the executor catches everything per command and answers with a status; the command line
catches `UsageError` and `AdmissionError` and prints one line.
"""

from __future__ import annotations


class MigproxyError(Exception):
    """Base of everything migproxy raises on purpose."""


class UsageError(MigproxyError):
    """Wrong use; the message says what was wrong and what would be right."""


class UnsupportedVersion(UsageError):
    """A library or protocol version outside the supported range; the message names both."""


class AdmissionError(MigproxyError):
    """The broker refused a session; the message carries the reason."""


class SessionError(MigproxyError):
    """The session cannot go on."""


class SessionLost(SessionError):
    """The executor or the broker is gone."""


class ProtocolError(SessionError):
    """A command was malformed or refused, and the session was closed."""


class CudaError(MigproxyError):
    """A CUDA driver call failed.

    Parameters
    ----------
    status : int
        The ``CUresult`` value, e.g. 2 for ``CUDA_ERROR_OUT_OF_MEMORY``.
    detail : str, optional
        What migproxy knows beyond the status; goes to the log, never to the library's message.
    """

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail

    def __str__(self) -> str:
        return f"CUresult {self.status}" + (f": {self.detail}" if self.detail else "")


class PluginError(MigproxyError):
    """A plugin is broken, refused, or made for another interface version."""


class SoftGpuError(MigproxyError):
    """The software GPU cannot do what was asked."""


class PtxError(SoftGpuError):
    """PTX that cannot be compiled.

    Parameters
    ----------
    message : str
        What is wrong.
    line : int
        1-based line in the PTX text; 0 when the error has no line.
    text : str
        The offending line.
    """

    def __init__(self, message: str, line: int = 0, text: str = "") -> None:
        super().__init__(message, line, text)
        self.message = message
        self.line = line
        self.text = text

    def __str__(self) -> str:
        where = f" (PTX line {self.line}: {self.text.strip()})" if self.line else ""
        return self.message + where


class KernelFault(SoftGpuError):
    """A kernel failed while it ran.

    Parameters
    ----------
    status : int
        The ``CUresult`` that a real device reports: 700 illegal address, 710 assert, 715 illegal instruction,
        716 misaligned address, 719 launch failure (trap).
    message : str
        Kernel, block, thread and address, as far as they are known.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message
