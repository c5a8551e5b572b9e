"""Calls that are marshalled as they are: the rest of the driver API, and functions of GPU libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from migproxy.abi.ops import Op
from migproxy.session.api.streams import resolve
from migproxy.session.session import current

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def driver_call(name: str, arguments: Sequence[Any]) -> tuple[int, tuple[Any, ...]]:
    """Call a driver function that the cuda plugin's table marshals by rule.

    Returns
    -------
    status : int
        The function's own ``CUresult``.
    outs : tuple
        What it wrote, in the table's order.
    """
    status, outs = _decode(current().call(Op.DRIVER_CALL, _encode((name, list(arguments)))))
    return status, tuple(outs)


def library_call(
    library: str, function: str, arguments: Sequence[Any], *, stream: int = 0, wait: bool = True, lease: bool = True
) -> Any:
    """Call a function of a GPU library in the executor.

    Parameters
    ----------
    library, function : str
        Names in the plugin's table.
    arguments : sequence
        Integers, floats, strings, bytes, None, lists and maps.
    stream : int
        The stream the library works on.
    lease : bool
        False: the function does not use the multiprocessors, as its plugin's table says too.
    wait : bool
        False: nothing is returned, and an error is told later: see `migproxy.session.late`.

    Raises
    ------
    LibraryCallError
        The library's own error.
    """
    payload = encode_library_call(library, function, arguments)
    session = current()
    wire = resolve(stream)
    op = Op.LIBRARY_CALL if lease else Op.LIBRARY_QUERY
    if wait:
        return _decode(session.call(op, payload, stream=wire))
    session.post(op, payload, stream=wire)
    return None


def encode_library_call(library: str, function: str, arguments: Sequence[Any]) -> bytes:
    """Return a call of a GPU library's function as it travels; see `library_call`."""
    return _encode((library, function, list(arguments)))


def post_library_call(payload: bytes, *, stream: int = 0) -> None:
    """Make a call that `encode_library_call` encoded: one that uses the multiprocessors and returns nothing."""
    current().post(Op.LIBRARY_CALL, payload, stream=resolve(stream))


def raise_deferred(package: str = "") -> None:
    """Raise the error of an earlier command without reply, if the executor has reported one; looks, does not wait for
    any.

    Parameters
    ----------
    package : str, optional
        Raise late errors of libraries whose names begin so, too: see `migproxy.session.late`.
    """
    current().raise_deferred(package)


def statistics() -> dict[str, int]:
    """Return the session's counters so far: operations, library calls, living handles by kind, memory; how long it has
    lived, and, on a slice with a compute lease, how long its work was on the device."""
    found: dict[str, int] = _decode(current().call(Op.STATISTICS, b""))
    return found
