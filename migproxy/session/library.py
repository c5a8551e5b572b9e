"""A library's functions in the function's process, made from its table of operations.

Each takes the arguments that the library's own function takes, packs them as the table says, and carries them to the
executor; what comes back is written where the caller wanted it. For plugins' function halves.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Mapping
from operator import index
from types import ModuleType
from typing import Any

from migproxy.abi.tables import (
    HOST_KINDS,
    REQUIRED,
    RETURNED_KINDS,
    Argument,
    Kind,
    Operation,
    Table,
    integer_fits,
    size_of,
)
from migproxy.arena.memory_unsafe import copy_in, copy_out
from migproxy.errors import CudaError, SessionError
from migproxy.session import api, late
from migproxy.session.session import LibraryCallError

#: Makes the library's own exception from a status (None if there is none) and a message.
MakeError = Callable[[int | None, str], Exception]

#: Numbers of objects; the function chooses them, so that making one needs no reply. They look like pointers, are spaced
#: like them, and are never reused.
_numbers = itertools.count(0x5D00_0000_0000, 0x10)


class LibraryFailure(RuntimeError):
    """A library's error, for tables whose library has no exception class of its own.

    Attributes
    ----------
    status : int or None
    """

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


class RemoteLibrary:
    """One library, served by the executor.

    Parameters
    ----------
    table : Table
    error : callable, optional
        Makes the library's own exception from status and message; `LibraryFailure` by default.
    stream : callable, optional
        Returns the stream that a call works on if none of its arguments says so; the legacy default stream by default.
    """

    def __init__(
        self, table: Table, *, error: MakeError | None = None, stream: Callable[[], int] | None = None
    ) -> None:
        self.table = table
        self.error: MakeError = error or LibraryFailure
        self._current_stream = stream or (lambda: 0)
        #: What `set_stream` operations said, by object.
        self._streams: dict[int, int] = {}
        self._made: dict[str, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def function(self, name: str) -> Callable[..., Any]:
        """Return the Python function of an operation; it takes positions and keywords.

        Raises
        ------
        AttributeError
            The table has no such operation.
        """
        made = self._made.get(name)
        if made is None:
            operation = self.table.operations.get(name)
            if operation is None or operation.local:
                raise AttributeError(f"{self.table.library} has no operation {name!r} in its table")
            with self._lock:
                made = self._made.setdefault(name, _with_signature(operation, self._handler(operation)))
        return made

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return the functions of all operations, for capsule tables and patches of attributes."""
        return {name: self.function(name) for name, entry in self.table.operations.items() if not entry.local}

    def module(self, name: str, **attributes: Any) -> ModuleType:
        """Return a stand-in for the library's module: its functions are made when they are asked for.

        Parameters
        ----------
        name : str
        **attributes : object
            Constants, classes and functions that the function's side serves itself.
        """
        module = ModuleType(name, f"migproxy's stand-in for {name}")
        namespace = vars(module)
        namespace.update(attributes)

        def make(attribute: str) -> Any:
            if attribute not in self.table.operations or self.table.operations[attribute].local:
                raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
            value = namespace[attribute] = self.function(attribute)
            return value

        namespace["__getattr__"] = make
        namespace["__dir__"] = lambda: sorted({*namespace, *self.table.operations})
        return module

    # -- one call ---
    def _handler(self, operation: Operation) -> Callable[..., Any]:
        if operation.refused:
            return self._refused(operation)
        if operation.stream_role:
            return self._stream_function(operation)
        name, makes, wait = operation.name, operation.makes, operation.must_wait
        ends = [position for position, argument in enumerate(operation.arguments) if argument.ends]
        packer = Packer(operation)

        def call(*arguments: Any) -> Any:
            sent, outs = packer.pack(arguments)
            number = 0
            if makes:
                number = next(_numbers)
                sent.insert(0, number)
            if not ends:
                answer = self._carry(name, sent, self._stream(operation, arguments), wait, operation.lease)
            else:
                answer = self._end(operation, sent, arguments, ends)
            if outs and answer is not None:
                answer, data = answer
                for target, piece in zip(outs, data, strict=True):
                    _give_back(target, piece)
            return number if makes else answer

        return call

    def _carry(self, name: str, sent: list[Any], stream: int, wait: bool, lease: bool) -> Any:
        package = self.table.library.partition(".")[0]
        try:
            api.raise_deferred(package)
            result = api.library_call(self.table.library, name, sent, stream=stream, wait=wait, lease=lease)
            if wait:
                api.raise_deferred(package)
            return result
        except LibraryCallError as error:
            status, message = error.facts.get("status"), str(error.facts.get("message", ""))
            if "function" in error.facts:
                message = f"{late.called(error.facts)}, called before: {message}"
                if error.facts.get("library") != self.table.library:
                    status = None  # a number of another library's
            raise self.error(status, message) from error
        except CudaError as error:
            if error.status == 801:
                raise self.error(self.table.not_supported, error.detail or str(error)) from error
            raise self.error(None, str(error)) from error
        except SessionError as error:
            raise self.error(None, str(error)) from error

    def _end(self, operation: Operation, sent: list[Any], arguments: tuple[Any, ...], ends: list[int]) -> Any:
        """Call an operation that ends objects: destructors do, after the session too, when there is nothing to end."""
        if sys.is_finalizing():
            return None
        stream = self._stream(operation, arguments)
        for position in ends:
            self._streams.pop(sent[position], None)
        if operation.must_wait:
            return self._carry(operation.name, sent, stream, True, operation.lease)
        with contextlib.suppress(CudaError, SessionError):
            api.library_call(self.table.library, operation.name, sent, stream=stream, wait=False, lease=operation.lease)
        return None

    def _stream(self, operation: Operation, arguments: tuple[Any, ...]) -> int:
        """Return the stream of a call: an argument, what was set for its object, or the current one."""
        for argument, value in zip(operation.arguments, arguments, strict=True):
            if argument.kind is Kind.STREAM:
                return index(value)
            if argument.kind is Kind.HANDLE and value in self._streams:
                return self._streams[value]
        return self._current_stream()

    def _stream_function(self, operation: Operation) -> Callable[..., Any]:
        if operation.stream_role == "set":

            def set_stream(handle: int, stream: int) -> None:
                # The executor gives each call's stream to the object; what is set here decides which that is.
                self._streams[index(handle)] = index(stream)

            return set_stream
        return lambda handle: self._streams.get(index(handle), 0)

    def _refused(self, operation: Operation) -> Callable[..., Any]:
        def refuse(*arguments: Any) -> Any:
            raise self.error(
                self.table.not_supported, f"{self.table.library}.{operation.name} is refused: {operation.refused}"
            )

        return refuse


def _with_signature(operation: Operation, handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return `handler` as a function with the operation's argument names and defaults."""
    scope: dict[str, Any] = {"_handler": handler}
    heads = []
    for position, argument in enumerate(operation.arguments):
        if argument.default is REQUIRED:
            heads.append(argument.name)
        else:
            scope[f"_d{position}"] = argument.default
            heads.append(f"{argument.name}=_d{position}")
    names = ", ".join(argument.name for argument in operation.arguments)
    # Names come from the plugin's own table, never from a caller.
    exec(f"def {operation.name}({', '.join(heads)}):\n    return _handler({names})\n", scope)
    function: Callable[..., Any] = scope[operation.name]
    function.__doc__ = f"{operation.name}({', '.join(f'{a.name}: {a.shown()}' for a in operation.arguments)})"
    return function


class Packer:
    """Packs the arguments of one operation as they travel.

    Parameters
    ----------
    operation : Operation
    """

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._arguments = operation.arguments
        self._names = [argument.name for argument in operation.arguments]
        self._sized = any(argument.kind in HOST_KINDS for argument in operation.arguments)

    def pack(self, arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        """Return what travels, and where what comes back belongs, in order.

        Raises
        ------
        TypeError, OverflowError, ValueError
            As the library's own function for arguments that it cannot convert.
        """
        values = dict(zip(self._names, arguments, strict=True)) if self._sized else {}
        sent: list[Any] = []
        outs: list[Any] = []
        for argument, value in zip(self._arguments, arguments, strict=True):
            if argument.kind in HOST_KINDS:
                sent.append(_host(argument, value, values, outs))
            else:
                sent.append(_plain(argument, value))
        return sent, outs


def _plain(argument: Argument, value: Any) -> Any:
    kind = argument.kind
    if kind is Kind.INTEGER:
        number = index(value)
        if not integer_fits(argument.type, number):
            raise OverflowError(f"{argument.name}: {number} does not fit {argument.type}")
        return number
    if kind is Kind.NUMBER:
        return float(value)
    if kind is Kind.COMPLEX:
        return [complex(value).real, complex(value).imag]
    if kind in (Kind.HANDLE, Kind.DEVICE):
        return 0 if value is None else index(value)
    if kind is Kind.STREAM:
        return None  # the command itself says the stream
    if kind is Kind.TEXT:
        return value.decode() if isinstance(value, bytes) else str(value)
    if kind is Kind.STRUCT:
        return [_plain(field, each) for field, each in zip(argument.fields, value, strict=True)]
    if kind is Kind.VALUE or value is None or isinstance(value, Mapping):
        return value
    return describe(value)


def _host(argument: Argument, value: Any, values: Mapping[str, Any], outs: list[Any]) -> Any:
    if value is None or (isinstance(value, int) and not value):
        return None
    assert argument.size is not None
    size = size_of(argument.size, values)
    if argument.kind in RETURNED_KINDS:
        outs.append(value)
    if argument.kind in (Kind.WRITE, Kind.SCRATCH):
        return size
    if isinstance(value, int):
        return copy_out(value, size)
    view = memoryview(value).cast("B")
    if view.nbytes < size:
        raise ValueError(f"{argument.name} has {view.nbytes} bytes, and {size} are read")
    return bytes(view[:size])


def _give_back(target: Any, data: bytes) -> None:
    if isinstance(target, int):
        copy_in(target, data)
        return
    memoryview(target).cast("B")[: len(data)] = data


def describe(array: Any) -> dict[str, list[Any]]:
    """Return what the executor needs to know of a device array: anything with ``__cuda_array_interface__``."""
    facts = array.__cuda_array_interface__
    shape, kind = list(facts["shape"]), facts["typestr"]
    strides = facts.get("strides")
    if strides is None:
        strides, step = [], int(kind[2:])
        for extent in reversed(shape):
            strides.insert(0, step)
            step *= extent
    return {"__array__": [facts["data"][0], shape, list(strides), kind]}
