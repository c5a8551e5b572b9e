"""Library calls from the function: one place where they get their stream, leave, and come back as the library's own
error.
"""

from __future__ import annotations

import builtins
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from migproxy_plugins.cupy import objects_unsafe as raw

from migproxy.errors import CudaError, SessionError, SessionLost
from migproxy.session import api
from migproxy.session.session import LibraryCallError

#: The packages of CuPy's libraries begin so.
PACKAGE = "cupy"
#: Numbers of objects that library calls create. The function chooses them, so that creating one needs no reply; they
#: look like
#: pointers, are spaced like them, and are never reused.
_objects = itertools.count(0x5E00_0000_0000, 0x10)


def new_object() -> int:
    """Return a fresh object number."""
    return next(_objects)


def failure(error: LibraryCallError, errors: Mapping[str, Callable[[int], Exception]] | None = None) -> Exception:
    """Return the exception that the library's real module would have raised.

    Parameters
    ----------
    error : LibraryCallError
        What the executor reported: of the call that is made, or of an earlier one, perhaps of another library.
    errors : mapping, optional
        The error classes of the library that was called, by name; those of others are found by the library's name.
    """
    facts = error.facts
    name, status, message = facts.get("type", ""), facts.get("status"), facts.get("message", "")
    made: Exception
    own = (errors or {}).get(name) or vars(sys.modules.get(facts.get("library", ""), builtins)).get(name)
    if own is not None and status is not None:
        made = own(status)
    else:
        kind = getattr(builtins, name, None)
        known = isinstance(kind, type) and issubclass(kind, Exception)
        made = kind(message) if known else RuntimeError(message)
    return made


def call(
    library: str,
    function: str,
    arguments: Sequence[Any],
    errors: Mapping[str, Callable[[int], Exception]],
    *,
    wait: bool,
    lease: bool = True,
) -> Any:
    """Call a library function on the current stream.

    Raises
    ------
    Exception
        The library's own error, or CUDA's for what is not the library's fault. It may be that of an earlier call that
        waited for no reply: that one's failure is known by now, and comes instead of this call.
    """
    try:
        api.raise_deferred(PACKAGE)
        result = api.library_call(library, function, arguments, stream=raw.current_stream(), wait=wait, lease=lease)
        if wait:
            api.raise_deferred(PACKAGE)
        return result
    except LibraryCallError as error:
        raise failure(error, errors) from None
    except (CudaError, SessionError) as error:
        raise cuda_failure(error) from error


def encoded(library: str, function: str, arguments: Sequence[Any]) -> bytes:
    """Return a call as it travels."""
    return api.encode_library_call(library, function, arguments)


def post(payload: bytes, errors: Mapping[str, Callable[[int], Exception]]) -> None:
    """Make a call without result again that was made and encoded before, on the current stream.

    Raises
    ------
    Exception
        As `call` does for a call that waits for no reply.
    """
    try:
        api.raise_deferred(PACKAGE)
        api.post_library_call(payload, stream=raw.current_stream())
    except LibraryCallError as error:
        raise failure(error, errors) from None
    except (CudaError, SessionError) as error:
        raise cuda_failure(error) from error


def release(library: str, function: str, arguments: Sequence[Any]) -> None:
    """Give an object of the executor back, for destructors: once the session ends, so does the object."""
    try:
        api.library_call(library, function, arguments, stream=raw.current_stream(), wait=False)
    except (SessionLost, CudaError):
        # A dead context or session has no objects any more.
        return


def cuda_failure(error: Exception) -> Exception:
    """Return CuPy's runtime error for an error of ours."""
    from cupy_backends.cuda.api.runtime import CUDARuntimeError
    from migproxy_plugins.cupy.errors import runtime_status

    made: Exception = CUDARuntimeError(runtime_status(error))
    return made


def describe(array: Any) -> dict[str, list[Any]]:
    """Return what the executor needs to know of a device array."""
    return {"__array__": [array.data.ptr, list(array.shape), list(array.strides), array.dtype.str]}
