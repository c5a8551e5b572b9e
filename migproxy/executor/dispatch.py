"""From operation to handler: the one place where commands are decided.

Each command was copied out of shared memory once; here it is looked up, checked by its handler, and carried out. A
handler returns the
reply's bytes, None (an empty reply), or `PENDING` when a completion record will reply. An unknown operation, a short
payload or a
malformed message is refused as a protocol error.

To add an operation: number and facts in ``abi/ops.py``, a handler decorated with ``@handles`` in
``executor/handlers/``, a caller in
``session/api/``.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from migproxy.abi import layout
from migproxy.abi.ops import OPERATIONS, Op
from migproxy.errors import CudaError, MigproxyError, ProtocolError

if TYPE_CHECKING:
    from migproxy.arena.ring import Command
    from migproxy.executor.state import SessionState

log = logging.getLogger("migproxy.executor")


class _Pending:
    """The type of `PENDING`."""


PENDING: Final = _Pending()
Result = bytes | None | _Pending
Handler = Callable[["SessionState", "Command"], Result]

CUDA_ERROR_UNKNOWN = 999
HANDLERS: dict[Op, Handler] = {}
HANDLER_MODULES = (
    "boxes",
    "callbacks",
    "calls",
    "copies",
    "events",
    "graphs",
    "launch",
    "memory",
    "modules",
    "sharing",
    "streams",
)


def handles(op: Op) -> Callable[[Handler], Handler]:
    """Register the decorated function as the handler of `op`."""

    def register(handler: Handler) -> Handler:
        if op in HANDLERS:
            raise ValueError(f"{op.name} has two handlers")
        HANDLERS[op] = handler
        return handler

    return register


def load_handlers() -> None:
    """Import every handler module, which registers them."""
    for name in HANDLER_MODULES:
        importlib.import_module(f"migproxy.executor.handlers.{name}")


class LibraryError(MigproxyError):
    """A library call failed with the library's own error; `facts` travel to the function.

    Parameters
    ----------
    facts : dict
        ``type``, ``status``, ``message``.
    """

    def __init__(self, facts: dict[str, object]) -> None:
        super().__init__(str(facts.get("message", "")))
        self.facts = facts


class Refused(MigproxyError):
    """An operation or function that is not supported, refused by name."""


def carry_out(state: SessionState, command: Command) -> None:
    """Check and carry out one command, and answer it."""
    number = command.number
    if command.refusal:
        refuse(state, command, command.refusal)
        return
    try:
        op = Op(command.op)
        handler = HANDLERS[op]
    except (ValueError, KeyError):
        refuse(state, command, f"unknown operation {command.op}")
        return
    if OPERATIONS[op].waits and not command.waits:
        refuse(state, command, f"{op.name} must wait for its reply")
        return
    state.counters[op.name.lower()] += 1
    if state.sticky and op not in _AFTER_DEATH:
        state.fail(command, state.sticky)
        return
    try:
        result = handler(state, command)
    except CudaError as error:
        log.info("session %s: %s: %s", state.spec.session_id, op.name, error)
        state.fail(command, error.status, error.detail)
    except LibraryError as error:
        _fail_library(state, command, error)
    except Refused as error:
        log.warning("session %s: refused: %s", state.spec.session_id, error)
        state.counters["refused"] += 1
        if not _keep_late(state, command, {"cuda": layout.STATUS_REFUSED, "message": str(error)}):
            state.fail(command, layout.STATUS_REFUSED, str(error))
    except (ProtocolError, msgspec.MsgspecError, struct.error) as error:
        refuse(state, command, f"{op.name}: {error}")
    except Exception as error:
        # A defect of ours, or of a library in here: the function gets an error, the log the traceback.
        log.exception("session %s: %s failed", state.spec.session_id, op.name)
        message = f"{type(error).__name__}: {error}"
        if not _keep_late(state, command, {"cuda": CUDA_ERROR_UNKNOWN, "message": message}):
            state.fail(command, CUDA_ERROR_UNKNOWN, message)
    else:
        if command.waits and not isinstance(result, _Pending):
            state.reply(number, 0, result or b"")


_LIBRARY_CALLS = frozenset({Op.LIBRARY_CALL, Op.LIBRARY_QUERY})
_decode_call = msgspec.msgpack.Decoder(tuple[str, str, list[Any]]).decode
_AFTER_DEATH = frozenset({Op.CLOSE, Op.FETCH_REPLY, Op.STATISTICS})


def _fail_library(state: SessionState, command: Command, error: LibraryError) -> None:
    if not _keep_late(state, command, error.facts):
        state.counters["errors"] += 1
        state.reply_error_facts(command.number, error.facts)


def _keep_late(state: SessionState, command: Command, facts: dict[str, object]) -> bool:
    """Keep the error of a library call that nobody waits for, so that its library can tell it later, and say in the log
    what failed; False for another command.
    """
    if command.waits or command.op not in _LIBRARY_CALLS:
        return False
    state.counters["errors"] += 1
    with contextlib.suppress(msgspec.MsgspecError):
        library, function, _ = _decode_call(command.payload)
        facts = {"library": library, "function": function} | facts
    where = ".".join(str(facts[each]) for each in ("library", "function") if each in facts)
    message = str(facts.get("message", ""))
    log.warning("session %s: %s failed after it had returned: %s", state.spec.session_id, where, message)
    if state.consumer.set_deferred_status(layout.DEFERRED_LIBRARY):
        state.late_error = facts | {"message": message[: layout.MOST_MESSAGE]}
    return True


def refuse(state: SessionState, command: Command, reason: str) -> None:
    """Refuse a malformed command: named in the log, counted, and the session is closed after the answer."""
    log.warning("session %s: protocol error in command %d: %s", state.spec.session_id, command.number, reason)
    state.counters["protocol_errors"] += 1
    if command.waits:
        state.reply(command.number, layout.STATUS_PROTOCOL, reason.encode()[: layout.REPLY_INLINE])
    state.closing = True
