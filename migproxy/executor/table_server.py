"""The executor's side of a table of operations: every argument is checked by the table before the library sees it.

A plugin's executor half makes one `TableServer` for each library and hands them to `half`, which gives the plugin host
what it asks a half for. On a GPU the library's own functions are called; on the software GPU those of a module that
mirrors them. Objects are known by numbers that the function chose; the real ones never leave.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

from migproxy.abi.tables import (
    FLOAT_TYPES,
    HOST_KINDS,
    INTEGER_TYPES,
    MOST_HOST_BYTES,
    RETURNED_KINDS,
    Argument,
    Kind,
    Operation,
    Table,
    integer_fits,
    size_of,
)
from migproxy.errors import CudaError, PluginError, ProtocolError
from migproxy.executor.dispatch import LibraryError, Refused

log = logging.getLogger("migproxy.executor")

MOST_OBJECTS = 65_536
MOST_TEXT = 1 << 20
CAPTURE_UNSUPPORTED = 900
#: Where a library's functions come from: the name of a module, or what returns an object that has them.
Source = str | Callable[[], Any]


class Context(Protocol):
    """What the executor gives for one call; see `migproxy.executor.plugin_host.LibraryContext`."""

    kind: str
    stream: int

    def check_range(self, address: int, size: int) -> None:
        """Raise `CudaError` unless the range lies in the session's memory."""

    def synchronize(self) -> None:
        """Wait for the work submitted to the call's stream."""

    def capturing(self) -> bool:
        """Tell whether the call's stream is being captured."""


class TableServer:
    """Serves one library by its table.

    Parameters
    ----------
    table : Table
    library : Source, optional
        The library's functions, on a GPU; the table's module by default.
    software : Source, optional
        Functions of the same names and arguments for the software GPU, where device memory is the executor's own memory
        at the same addresses. What is missing there is refused by name.
    by_hand : mapping, optional
        Operation → function, called with the context and the checked arguments, on both kinds of device.
    """

    def __init__(
        self,
        table: Table,
        *,
        library: Source = "",
        software: Source = "",
        by_hand: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.table = table
        self._sources = {"gpu": library or table.module, "software": software}
        self._loaded: dict[str, Any] = {}
        self.by_hand = dict(by_hand or {})
        self.objects: dict[int, tuple[str, Any]] = {}
        self._context: Context
        self._host_memory: Sequence[Any] = ()
        self._stream_of: dict[int, int] = {}
        self._set_stream = {
            operation.arguments[0].of: operation
            for operation in table.operations.values()
            if operation.stream_role == "set"
        }
        self._check()

    def _check(self) -> None:
        declared = {o.name for o in self.table.operations.values() if o.by_hand and not o.refused}
        if declared != set(self.by_hand):
            raise PluginError(
                f"{self.table.library}: served by hand are {sorted(self.by_hand)}, the table says {sorted(declared)}"
            )

    # -- what the plugin host asks ---
    def needs_lease(self, name: str) -> bool:
        """Tell whether an operation uses the multiprocessors."""
        return self.operation(name).lease

    def counts(self) -> Counter[str]:
        """Return how many objects are alive, by kind."""
        return Counter(f"{self.table.library} {kind}" for kind, _ in list(self.objects.values()))

    def serve(self, context: Context, name: str, arguments: list[Any]) -> Any:
        """Carry out one call.

        Raises
        ------
        ProtocolError
            The table has no such operation, or not with such arguments.
        LibraryError
            The library's own error.
        Refused
            The operation is refused, or this device does not have it.
        """
        operation = self.operation(name)
        number = self._new_number(arguments) if operation.makes else 0
        values, outs, kept, ended = self._values(context, operation, arguments[1:] if number else arguments)
        result = self._run(context, operation, self._function(context, operation), values, kept)
        if number:
            self.objects[number] = (operation.makes, result)
            return None
        for each in ended:
            self.objects.pop(each, None)
            self._stream_of.pop(each, None)
        answer = _plain_result(operation, result)
        return [answer, [bytes(memory) for memory in outs]] if outs else answer

    def prepare(self, context: Context, name: str, arguments: list[Any]) -> Callable[[], Any] | None:
        """Return what carries out this very call again with arguments that were checked already; None if it cannot be
        repeated so: it makes, ends or returns something.
        """
        operation = self.operation(name)
        if context.kind != "gpu" or operation.makes or operation.must_wait or operation.by_hand:
            return None
        values, outs, kept, ended = self._values(context, operation, arguments)
        if outs or ended:
            return None
        function = self._function(context, operation)

        def again(kept: list[Any] = kept) -> None:  # host memory behind the values lives as long as this
            self._run(context, operation, function, values, kept)

        return again

    # -- checks ---
    def operation(self, name: str) -> Operation:
        """Return an entry of the table; ProtocolError for a name that it does not have."""
        found = self.table.operations.get(name)
        if found is None or found.stream_role or found.local:
            raise ProtocolError(f"{self.table.library} has no operation {name!r}")
        if found.refused:
            raise Refused(f"{self.table.library}.{name}: {found.refused}")
        return found

    def _new_number(self, arguments: list[Any]) -> int:
        number = arguments[0] if arguments else None
        if not isinstance(number, int) or number <= 0 or number in self.objects or len(self.objects) >= MOST_OBJECTS:
            raise ProtocolError(f"no object can be made under {number!r}")
        return number

    def real(self, kind: str, number: Any, *, optional: bool = False) -> Any:
        """Return the object behind a number of the function; 0 for an optional one that is NULL.

        Raises
        ------
        LibraryError
            With the library's own status for a bad handle, when the number stands for no object of this kind.
        """
        if optional and not number:
            return 0
        if not isinstance(number, int):
            raise ProtocolError(f"{number!r} is no handle")
        found = self.objects.get(number)
        if found is None or found[0] != kind:
            message = f"{number:#x} is no handle of {kind}"
            raise LibraryError({"type": self.table.error, "status": self.table.bad_handle, "message": message})
        return found[1]

    def _values(
        self, context: Context, operation: Operation, arguments: list[Any]
    ) -> tuple[list[Any], list[Any], list[Any], list[int]]:
        """Return the real arguments, the buffers to send back, what must live as long as the arguments, and the numbers
        that end.
        """
        if len(arguments) != len(operation.arguments):
            raise ProtocolError(f"{operation.name} takes {len(operation.arguments)} arguments, not {len(arguments)}")
        plain = {
            argument.name: value
            for argument, value in zip(operation.arguments, arguments, strict=True)
            if argument.kind is Kind.INTEGER
        }
        outs: list[Any] = []
        kept: list[Any] = []
        values = [
            self._value(context, operation, argument, value, plain, outs, kept)
            for argument, value in zip(operation.arguments, arguments, strict=True)
        ]
        ended = [
            value for argument, value in zip(operation.arguments, arguments, strict=True) if argument.ends and value
        ]
        return values, outs, kept, ended

    def _value(
        self,
        context: Context,
        operation: Operation,
        argument: Argument,
        value: Any,
        plain: Mapping[str, Any],
        outs: list[Any],
        kept: list[Any],
    ) -> Any:
        kind = argument.kind
        if kind in HOST_KINDS:
            return self._host(operation, argument, value, plain, outs, kept)
        if kind is Kind.HANDLE:
            return self._handle(argument, value)
        if kind is Kind.DEVICE:
            return self._device(context, operation, argument, value, plain)
        if kind is Kind.STREAM:
            return context.stream
        if kind is Kind.STRUCT:
            return self._struct(context, operation, argument, value, plain, kept)
        if kind is Kind.VALUE:
            return value
        if kind is Kind.ARRAY:
            return _array(context, operation, argument, value)
        return _scalar(operation, argument, value)

    def _handle(self, argument: Argument, value: Any) -> Any:
        if argument.of in self.table.foreign:
            raise Refused(f"{self.table.library}: nothing translates a handle of {argument.of}")
        return self.real(argument.of, value, optional=argument.optional)

    @staticmethod
    def _size(operation: Operation, argument: Argument, plain: Mapping[str, Any]) -> int:
        assert argument.size is not None
        try:
            size = size_of(argument.size, plain)
        except (ValueError, TypeError, KeyError) as error:
            raise ProtocolError(f"{operation.name}, {argument.name}: {error}") from error
        return size

    def _device(
        self, context: Context, operation: Operation, argument: Argument, value: Any, plain: Mapping[str, Any]
    ) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProtocolError(f"{operation.name}: {argument.name} is no address")
        size = 1 if argument.size is None else self._size(operation, argument, plain)
        if size and (value or not argument.optional):
            if not 0 < value < 1 << 63:
                raise CudaError(1, f"{operation.name}: {argument.name} is no device address")
            context.check_range(value, size)
        return value

    def _host(
        self,
        operation: Operation,
        argument: Argument,
        value: Any,
        plain: Mapping[str, Any],
        outs: list[Any],
        kept: list[Any],
    ) -> int:
        if value is None:
            if not argument.optional:
                raise CudaError(1, f"{operation.name}: {argument.name} is NULL")
            return 0
        size = self._size(operation, argument, plain)
        if size > MOST_HOST_BYTES:
            raise ProtocolError(f"{operation.name}: {argument.name} of {size} bytes is too long")
        reads = argument.kind in (Kind.READ, Kind.UPDATE)
        # The size is this side's own, from the checked integers; the function only has to agree.
        if reads and (not isinstance(value, bytes) or len(value) != size):
            raise ProtocolError(f"{operation.name}: {argument.name} must be {size} bytes")
        if not reads and value != size:
            raise ProtocolError(f"{operation.name}: {argument.name} has {size} bytes, not {value!r}")
        memory = (ctypes.c_ubyte * max(size, 1))()
        if reads:
            memory[:size] = value
        kept.append(memory)
        if argument.kind in RETURNED_KINDS:
            outs.append(memory if size else b"")
        return ctypes.addressof(memory)

    def _struct(
        self,
        context: Context,
        operation: Operation,
        argument: Argument,
        value: Any,
        plain: Mapping[str, Any],
        kept: list[Any],
    ) -> int:
        if not isinstance(value, list) or len(value) != len(argument.fields):
            raise ProtocolError(f"{operation.name}: {argument.name} has {len(argument.fields)} fields")
        checked = [
            self._value(context, operation, field, each, plain, [], kept)
            for field, each in zip(argument.fields, value, strict=True)
        ]
        made = _layout(argument)(*checked)
        kept.append(made)
        return ctypes.addressof(made)

    # -- the call ---
    def source(self, kind: str) -> Any:
        """Return what has the library's functions on a kind of device; Refused if nothing has, or it cannot be
        imported here.
        """
        found = self._loaded.get(kind)
        if found is None:
            source = self._sources[kind]
            if not source:
                raise Refused(f"{self.table.library} has nothing for the software GPU")
            try:
                found = importlib.import_module(source) if isinstance(source, str) else source()
            except ImportError as error:
                why = f"{type(error).__name__}: {error}"
                log.exception("%s cannot be loaded in the executor", self.table.library)
                raise Refused(f"{self.table.library} cannot be loaded in the executor: {why}") from error
            self._loaded[kind] = found
        return found

    def software_source(self) -> Any:
        """Return what has the functions on the software GPU, None if the library has nothing for it."""
        return self.source("software") if self._sources["software"] else None

    def _function(self, context: Context, operation: Operation) -> Callable[..., Any]:
        if operation.by_hand:
            function = self.by_hand[operation.name]
            return lambda *values: function(context, *values)
        found: Callable[..., Any] | None = getattr(self.source(context.kind), operation.name, None)
        if found is None:
            raise Refused(f"{self.table.library}.{operation.name} is not in the {context.kind} library")
        return found

    def _run(
        self,
        context: Context,
        operation: Operation,
        function: Callable[..., Any],
        values: Sequence[Any],
        kept: Sequence[Any],
    ) -> Any:
        try:
            if context.kind == "software":
                self._context, self._host_memory = context, kept
                guard_views(lambda: self._context, lambda: self._host_memory)
            if context.kind == "software" and operation.lease:
                # The library works at once, so the work before it must be done.
                if context.capturing():
                    raise CudaError(CAPTURE_UNSUPPORTED, f"{self.table.library}.{operation.name} while captured")
                context.synchronize()
            elif self._set_stream and context.kind == "gpu":
                self._use_stream(context, operation, values)
            return function(*values)
        except (CudaError, ProtocolError, LibraryError, Refused):
            raise
        except Exception as error:
            raise LibraryError(error_facts(error)) from error

    def _use_stream(self, context: Context, operation: Operation, values: Sequence[Any]) -> None:
        """Give the call's objects its stream, as the function would have done."""
        for argument, value in zip(operation.arguments, values, strict=True):
            setter = self._set_stream.get(argument.of) if argument.kind is Kind.HANDLE else None
            if setter is not None and not argument.ends and self._stream_of.get(id_of(value), 0) != context.stream:
                getattr(self.source("gpu"), setter.name)(value, context.stream)
                self._stream_of[id_of(value)] = context.stream


def id_of(value: Any) -> int:
    """Return what an object's stream is remembered by: the object, if it is a number, as handles mostly are."""
    return value if isinstance(value, int) else id(value)


def _scalar(operation: Operation, argument: Argument, value: Any) -> Any:
    kind, where = argument.kind, f"{operation.name}: {argument.name}"
    if kind is Kind.INTEGER:
        if not isinstance(value, int) or isinstance(value, bool) or not integer_fits(argument.type, value):
            raise ProtocolError(f"{where} is no {argument.type}: {value!r}")
        return value
    if kind is Kind.NUMBER:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ProtocolError(f"{where} is no number: {value!r}")
        return float(value)
    if kind is Kind.COMPLEX:
        if not isinstance(value, list) or [type(each) for each in value] != [float, float]:
            raise ProtocolError(f"{where} is no complex number: {value!r}")
        return complex(*value)
    if not isinstance(value, str) or len(value) > MOST_TEXT or "\0" in value:
        raise ProtocolError(f"{where} is no text")
    return value


def _array(context: Context, operation: Operation, argument: Argument, value: Any) -> Any:
    """Return a device array's facts (address, shape, strides, dtype text) after checking all that it spans."""
    if value is None and argument.optional:
        return None
    try:
        address, shape, strides, kind = value["__array__"]
        extents = [(int(extent), int(step)) for extent, step in zip(shape, strides, strict=True)]
        item = int(kind[2:])
        if kind[0] not in "<>|" or kind[1] not in "biufc" or not 0 < item <= 16 or not isinstance(address, int):
            raise ValueError(kind)
        if len(extents) > 64 or any(extent < 0 for extent, _ in extents):
            raise ValueError(shape)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ProtocolError(f"{operation.name}: {argument.name} is no array: {value!r}") from error
    if all(extent for extent, _ in extents):
        low = sum((extent - 1) * step for extent, step in extents if step < 0)
        high = sum((extent - 1) * step for extent, step in extents if step > 0)
        if not 0 < address + low < 1 << 63 or high - low >= 1 << 62:
            raise CudaError(1, f"{operation.name}: {argument.name} lies outside the device's memory")
        context.check_range(address + low, high - low + item)
    return SimpleNamespace(address=address, shape=tuple(shape), strides=tuple(strides), dtype=kind)


_C_TYPES: dict[str, Any] = {
    **{name: getattr(ctypes, f"c_{name}") for name in INTEGER_TYPES},
    **dict(zip(FLOAT_TYPES, (ctypes.c_float, ctypes.c_double), strict=True)),
}


def _layout(argument: Argument) -> Any:
    fields = [(field.name, _C_TYPES.get(field.type, ctypes.c_uint64)) for field in argument.fields]
    return type(argument.name, (ctypes.Structure,), {"_fields_": fields})


_RESULTS: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "text": (str,),
    "bytes": (bytes,),
    "list": (list, tuple),
}


def _plain_result(operation: Operation, result: Any) -> Any:
    if not operation.result:
        return None
    if operation.result == "integer" and hasattr(result, "__index__"):
        result = int(result)
    elif operation.result == "number" and hasattr(result, "__float__"):
        result = float(result)
    if not isinstance(result, _RESULTS[operation.result]):
        raise LibraryError(
            {"type": "TypeError", "message": f"{operation.name} returned a {type(result).__name__}", "status": None}
        )
    return [*result] if isinstance(result, tuple) else result


def error_facts(error: Exception) -> dict[str, Any]:
    """Return what the function's side needs to raise the library's error."""
    status = getattr(error, "status", getattr(error, "result", None))
    try:
        status = None if status is None else int(status)
    except (TypeError, ValueError):
        status = None
    return {"type": type(error).__name__, "status": status, "message": str(error)}


def guard_views(context_of_call: Callable[[], Context], host_memory: Callable[[], Iterable[Any]]) -> None:
    """Check every view that the software GPU's libraries make: it is the session's memory, or this call's host memory.
    Otherwise a real device would fault, and here the executor would read its own memory, or die.

    Parameters
    ----------
    context_of_call : callable
        Returns the context of the call that is carried out.
    host_memory : callable
        Returns the ctypes buffers of that call.
    """
    from migproxy.softgpu.libraries import views_unsafe

    def guard(address: int, size: int) -> None:
        context = context_of_call()
        try:
            context.check_range(address, max(size, 1))
        except CudaError:
            for buffer in host_memory():
                start = ctypes.addressof(buffer)
                if start <= address and address + size <= start + ctypes.sizeof(buffer):
                    return
            raise CudaError(views_unsafe.ILLEGAL_ADDRESS, f"{size} bytes at {address:#x}") from None

    views_unsafe.set_guard(guard)


def half(*servers: TableServer) -> SimpleNamespace:
    """Return what an executor half gives the plugin host, for ``HALF = half(…)``.

    The host looks for ``HALF`` in the module that the plugin names; attributes of the module itself are the same
    interface: ``LIBRARIES``, ``serve``, and optionally ``prepare``, ``needs_lease``, ``counts``.
    """
    by_name = {server.table.library: server for server in servers}

    def serve(context: Any, library: str, function: str, arguments: list[Any]) -> Any:
        return by_name[library].serve(context, function, arguments)

    def prepare(context: Any, library: str, function: str, arguments: list[Any]) -> Callable[[], Any] | None:
        return by_name[library].prepare(context, function, arguments)

    def needs_lease(library: str, function: str) -> bool:
        return by_name[library].needs_lease(function)

    def counts() -> Counter[str]:
        return sum((server.counts() for server in servers), Counter())

    return SimpleNamespace(
        LIBRARIES=tuple(by_name),
        serve=serve,
        prepare=prepare,
        needs_lease=needs_lease,
        counts=counts,
        servers=by_name,
    )


__all__ = ["Context", "TableServer", "error_facts", "half"]
