"""The executor half: carries out the library calls of a function's CuPy.

On a GPU the real modules of the executor's own CuPy serve; on the software GPU `migproxy.softgpu.libraries`. Which
names may be called, with how many arguments, and which arguments are objects, comes from the same tables and roles
that made the stand-in; nothing else is called. Objects (handles, descriptors, plans) are known by numbers that the
function chose; the real ones never leave.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from migproxy_plugins.cupy import captured, native_unsafe, roles, signatures, tables, warming
from migproxy_plugins.cupy import objects_unsafe as raw
from migproxy_plugins.cupy.roles import NOT_SUPPORTED, Kind
from migproxy_plugins.cupy.serving import CUB, EXTRA, HOST_ONLY, Serving, UnknownObject
from migproxy_plugins.cupy.serving_fft import CUFFT

from migproxy.errors import CudaError, MigproxyError, ProtocolError
from migproxy.executor.dispatch import LibraryError
from migproxy.executor.opened import OPEN_VARIABLE
from migproxy.executor.repeat_tables_unsafe import NativeCall, Repeat
from migproxy.executor.table_server import guard_views

# Each registers the functions it serves, as `serving_fft` does.
for _family in ("serving_cutensor", "serving_random"):
    importlib.import_module(f"migproxy_plugins.cupy.{_family}")

#: "Not initialised", or "invalid plan", in each library's own numbering.
BAD_HANDLE = {"cublas": 1, "cusolver": 1, "cusparse": 1, "curand": 101, "cufft": 1, "cutensor": 1}
MAX_OBJECTS = 65_536
MAX_HOST_BYTES = 1 << 30


class NotInThisVersion(MigproxyError):
    """Another release of CuPy has the function, the executor's has not."""


class Context(Protocol):
    """What the executor gives for one call."""

    kind: str
    stream: int

    def check_range(self, address: int, size: int) -> None:
        """Raise `CudaError` unless the range lies in the session's memory."""

    def charge(self, size: int) -> None:
        """Charge device memory that the library took, or gave back if it is negative."""

    def synchronize(self) -> None:
        """Wait for the work submitted to the call's stream."""


class _Function:
    """One callable function of a library."""

    def __init__(self, module: str, doc: str) -> None:
        self.module = module
        self.signature = signatures.parse(doc)
        self.name = self.signature.name
        self.roles = roles.roles(tables.SHORT_NAMES[module], self.signature)
        self.creates = roles.creates(self.signature)
        self.destroys = roles.destroys(self.signature)
        self.limits = [_limits(argument.ctype) for argument in self.signature.arguments]
        self.required = sum(argument.default is None for argument in self.signature.arguments)


def _limits(ctype: str) -> tuple[int, int]:
    """Return the least and the largest integer that an argument of a C type takes; enumerations are ints."""
    bits, signed = signatures.INTEGERS.get(ctype, (64, True) if not ctype else (32, True))
    # A negative Python int is refused by unsigned types; numbers up to 64 bits travel.
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


class Server(Serving):
    """Serves one session.

    Parameters
    ----------
    context : Context
        The first call's; each call brings its own.
    version : str, optional
        The CuPy version whose tables name what may be called.
    """

    def __init__(self, context: Context, version: str | None = None) -> None:
        self.context = context
        self.software = context.kind == "software"
        self._host_memory: list[Any] = []
        if self.software:
            guard_views(lambda: self.context, lambda: self._host_memory)
        self.version = version
        self.objects: dict[int, tuple[str, Any]] = {}
        self._stream_in_use = -1
        self._pool: Any = None
        self._pool_bytes = 0
        self._workspaces = native_unsafe.Workspaces(_allocate)
        self._functions: dict[tuple[str, str], _Function] = {}
        self._modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """Return the module that carries out a library's calls."""
        found = self._modules.get(name)
        if found is None:
            if self.software:
                from migproxy.softgpu import libraries

                found = libraries.library(name)
            else:
                found = importlib.import_module(name)
            self._modules[name] = found
        return found

    def lend(self, *buffers: Any) -> None:
        """Say which of the executor's own buffers this call's library function may read and write."""
        self._host_memory = list(buffers)

    def function(self, library: str, name: str) -> _Function:
        """Return a function of the tables.

        Raises
        ------
        ProtocolError
            For a library or name that no table has: no stand-in asks for such.
        """
        found = self._functions.get((library, name))
        if found is None:
            if library not in tables.SHORT_NAMES:
                raise ProtocolError(f"no library {library!r}")
            doc = tables.table(library, self.version)["functions"].get(name)
            if doc is None:
                if tables.ever(library, name):
                    # The function's CuPy is another one than the executor's.
                    raise NotInThisVersion(f"CuPy {self.version or tables.installed_version()} has no {library}.{name}")
                raise ProtocolError(f"{library} has no function {name!r}")
            found = _Function(library, doc)
            if any(role.kind is Kind.UNDECIDED for role in found.roles):
                raise ProtocolError(f"{library}.{name} has an argument of which nobody has said what it is")
            self._functions[library, name] = found
        return found

    def serve(self, context: Context, library: str, name: str, arguments: list[Any]) -> Any:
        """Carry out one call.

        Raises
        ------
        LibraryError
            With the library's own error.
        """
        try:
            order = self._needs_order(library, name)
        except NotInThisVersion as error:
            raise LibraryError(self._own_error(library, NOT_SUPPORTED, str(error))) from error
        if self.software and order and captured.capturing(context):
            return self._guarded(context, library, name, lambda: self._record(library, name, arguments), order=False)
        return self._guarded(
            context,
            library,
            name,
            lambda: self._carry_out(library, name, arguments),
            order=order,
        )

    def _needs_order(self, library: str, name: str) -> bool:
        """Whether a call works on device memory, so that the software GPU must do it at its place in the stream."""
        if (library, name) in EXTRA:
            return (library, name) not in HOST_ONLY
        function = self.function(library, name)
        return roles.works_on_stream(tables.SHORT_NAMES[library], function.signature)

    def _record(self, library: str, name: str, arguments: list[Any]) -> None:
        """Put a call into the graph that the software GPU's stream is captured into: as a host function.

        Only functions of `EXTRA` come here: CuPy refuses the libraries behind the tables while it captures.
        """
        extra = EXTRA.get((library, name))
        if extra is None:
            raise CudaError(captured.CAPTURE_UNSUPPORTED, f"{library}.{name} while the stream is captured")
        ready = [self.array(value) if _is_array(value) else value for value in arguments]
        captured.record(self.context, lambda: extra(self, *ready))

    def prepare(self, context: Context, library: str, name: str, arguments: list[Any]) -> Repeat | None:
        """Return what carries out this very call again without looking at its arguments again.

        The caller keeps it only as long as the session's memory and objects stay what they are.

        Returns
        -------
        Repeat or None
            None for calls that make or destroy objects or return bytes, and on the software GPU.
        """
        if self.software:
            return None
        self.context = context
        extra = EXTRA.get((library, name))
        if extra is not None:
            ready = [self.array(value) if _is_array(value) else value for value in arguments]
            calls, kept = self._native_extra(library, name, ready)
            return Repeat(lambda: self._guarded(context, library, name, lambda: extra(self, *ready)), calls, kept)
        function = self.function(library, name)
        if function.creates or function.destroys:
            return None
        values, outs, keep = self._values(function, arguments)
        if outs:
            return None
        implementation: Callable[..., Any] = getattr(self.module(function.module), function.name)
        declared = function.signature.result

        def again(kept: list[Any] = keep) -> Any:  # the buffers behind host scalars live as long as this
            return self.plain(implementation(*values), declared)

        short = tables.SHORT_NAMES[library]
        native = native_unsafe.library_calls(
            short, self.module(function.module), function.signature, values, context.stream
        )
        return Repeat(lambda: self._guarded(context, library, name, again), native, keep)

    def _native_extra(self, library: str, name: str, ready: list[Any]) -> tuple[tuple[NativeCall, ...], object]:
        """Return the C calls behind a function of `EXTRA`, () if they are not known, and what they point to."""
        module, stream = self.module(library), self.context.stream
        if library == CUFFT and name == "fft":
            number, source, target, direction = ready
            plan = self.object(number)
            return native_unsafe.plan_calls(module, plan, source, target, direction, stream), plan
        if library == CUB and name in native_unsafe.CUB_FUNCTIONS:
            arrays, facts = native_unsafe.cub_arguments(name, ready)
            found = native_unsafe.cub_calls(module, name, arrays, facts, stream, self._workspaces)
            self._charge_pool()
            return found
        return (), None

    def _carry_out(self, library: str, name: str, arguments: list[Any]) -> Any:
        extra = EXTRA.get((library, name))
        if extra is not None:
            return extra(self, *arguments)
        return self._by_table(self.function(library, name), arguments)

    def _guarded(
        self, context: Context, library: str, name: str, action: Callable[[], Any], *, order: bool = True
    ) -> Any:
        """Run `action` on the call's stream; errors come out as the executor expects them.

        Without `order` a call on the software GPU does not wait for the stream's work.
        """
        self.context = context
        try:
            if order or not self.software:
                self.use_stream()
            return action()
        except UnknownObject as error:
            raise LibraryError(self._own_error(library, BAD_HANDLE, str(error))) from error
        except (MigproxyError, CudaError) as error:
            if isinstance(error, CudaError | ProtocolError) or not hasattr(error, "status"):
                raise
            raise LibraryError(facts(library, error)) from error
        except TypeError as error:
            raise ProtocolError(f"{library}.{name}: {error}") from error
        except Exception as error:
            raise LibraryError(facts(library, error)) from error
        finally:
            if not self.software:
                self._charge_pool()

    def _charge_pool(self) -> None:
        """Charge the workspace that the executor's own CuPy keeps in its pool."""
        if self._pool is None:
            import cupy

            self._pool = cupy.get_default_memory_pool()
        total = self._pool.total_bytes()
        if total != self._pool_bytes:
            self.context.charge(total - self._pool_bytes)
            self._pool_bytes = total

    def _own_error(self, library: str, statuses: Mapping[str, int], message: str) -> dict[str, Any]:
        """Return the library's error with its status of a kind, for what the library never gets to see."""
        short = tables.SHORT_NAMES[library]
        classes = tables.table(library, self.version)["classes"]
        name = next((name for name, entry in classes.items() if "messages" in entry), "RuntimeError")
        return {"library": library, "type": name, "status": statuses.get(short), "message": message}

    def use_stream(self) -> None:
        """Make the call's stream the current one for the library modules; the software GPU works at once, behind its
        work.
        """
        if self.software:
            self.context.synchronize()
            return
        stream = self.context.stream
        if stream != self._stream_in_use:
            import cupy

            # The current stream stays current: no other code of this process sets it.
            (cupy.cuda.ExternalStream(stream) if stream else cupy.cuda.Stream.null).use()
            self._stream_in_use = stream

    def _by_table(self, function: _Function, arguments: list[Any]) -> Any:
        number = 0
        if function.creates:
            number = self.integer(arguments[0])
            arguments = arguments[1:]
            if number in self.objects or len(self.objects) >= MAX_OBJECTS:
                raise ProtocolError(f"object {number:#x} cannot be made")
        values, outs, self._host_memory = self._values(function, arguments)
        implementation: Callable[..., Any] = getattr(self.module(function.module), function.name)
        result = implementation(*values)
        if function.creates:
            self.objects[number] = (roles.made_kind(tables.SHORT_NAMES[function.module], function.name), result)
            return None
        if function.destroys and arguments:
            self.objects.pop(arguments[-1], None)
        result = self.plain(result, function.signature.result)
        return [result, [bytes(memory) for memory in outs]] if outs else result

    def _values(self, function: _Function, arguments: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the real arguments, the buffers to send back, and what must live as long as the arguments."""
        if not function.required <= len(arguments) <= len(function.roles):
            raise ProtocolError(f"{function.name} takes {len(function.roles)} arguments, not {len(arguments)}")
        values: list[Any] = []
        outs: list[Any] = []
        keep: list[Any] = []
        names = [argument.name for argument in function.signature.arguments]
        by_name = dict(zip(names, arguments, strict=False))
        for role, value, (low, high) in zip(function.roles, arguments, function.limits, strict=False):
            if type(value) is int and not low <= value <= high:
                raise ProtocolError(f"{function.name}: {value} does not fit")
            if role.size is not None:
                self._check_host(function, role, value, by_name)
            if isinstance(value, bytes) and role.kind is Kind.IN:
                memory: Any = raw.buffer(len(value))
                memory[: len(value)] = value
                keep.append(memory)
                values.append(raw.address_of(memory))
            elif isinstance(value, dict) and role.kind in (Kind.OUT, Kind.SCRATCH, Kind.COMPLEX):
                values.append(self._special(role, value, outs, keep))
            elif role.kind is Kind.OBJECT:
                values.append(self.object(value) if value else 0)
            elif role.kind is Kind.POINTER:
                values.append(self._pointer(function, value))
            elif isinstance(value, int | float):
                values.append(value)
            else:
                raise ProtocolError(f"{function.name}: {type(value).__name__} is no argument")
        return values, outs, keep

    def _check_host(self, function: _Function, role: roles.Role, value: Any, by_name: dict[str, Any]) -> None:
        """Check host memory against this side's own rule: its size, and that no address of the function gets through.

        NULL does, and where the handle's pointer mode may say so a device address.
        """
        if isinstance(value, int):
            if value and not role.moded:
                raise ProtocolError(f"{function.name}: an address of the function where its memory should be")
            self._pointer(function, value)
            return
        assert role.size is not None
        try:
            wanted = role.size(function.name, by_name)
        except (KeyError, TypeError, IndexError) as error:
            raise ProtocolError(f"{function.name}: these arguments have no size: {error!r}") from error
        found = len(value) if isinstance(value, bytes) else None
        if isinstance(value, dict):
            found = value.get("__out__", value.get("__scratch__"))
        if isinstance(value, bytes) != (role.kind is Kind.IN) or found != wanted:
            raise ProtocolError(f"{function.name}: {wanted} bytes of host memory were expected")

    def _pointer(self, function: _Function, value: Any) -> int:
        """Return a device address whose first byte is the session's; what else is touched is the library's to know.

        NULL goes on: many functions allow it, and the others answer it with their own error.
        """
        address = self.integer(value)
        if address:
            if not 0 < address < 1 << 63:
                raise CudaError(1, f"{function.name}: {address:#x} is no address")
            self.context.check_range(address, 1)
        return address

    def _special(self, role: roles.Role, value: dict[str, Any], outs: list[Any], keep: list[Any]) -> Any:
        if role.kind is Kind.COMPLEX:
            real, imaginary = value["__complex__"]
            return complex(real, imaginary)
        size = value.get("__out__", value.get("__scratch__"))
        if not isinstance(size, int) or not 0 <= size <= MAX_HOST_BYTES:
            raise ProtocolError(f"no such argument: {value!r}")
        memory = raw.buffer(size)
        keep.append(memory)
        if "__out__" in value:
            outs.append(memory)
        return raw.address_of(memory)

    def plain(self, result: Any, declared: str) -> Any:
        """Return a result as plain values: record classes become lists of their fields in order."""
        if result is None or isinstance(result, int | float | str | bytes):
            return result
        if isinstance(result, tuple | list):
            return [self.plain(item, "") for item in result]
        entry = next(
            (
                table["classes"][declared]
                for name in tables.SHORT_NAMES
                if declared in (table := tables.table(name, self.version))["classes"]
            ),
            None,
        )
        if entry is None:
            raise ProtocolError(f"a result of type {type(result).__name__} does not travel")
        return [int(getattr(result, argument.name)) for argument in signatures.parse(entry["doc"]).arguments]


def _allocate(size: int) -> Any:
    """Return device memory of the executor's own, charged to the session with its pool."""
    import cupy

    return cupy.cuda.alloc(size)


def _is_array(value: Any) -> bool:
    return isinstance(value, dict) and "__array__" in value


def facts(library: str, error: Exception) -> dict[str, Any]:
    """Return what the function's side needs to raise the same error."""
    status = getattr(error, "status", getattr(error, "result", None))
    return {
        "library": library,
        "type": type(error).__name__,
        "status": int(status) if status is not None else None,
        "message": str(error),
    }


#: What the executor asks this module for.
LIBRARIES = tuple(tables.SHORT_NAMES)


def counts() -> Counter[str]:
    """Return how many objects of the session's libraries are alive, by kind."""
    return Counter(kind for kind, _ in list(_server.objects.values())) if _server is not None else Counter()


def needs_lease(library: str, function: str) -> bool:
    """Tell whether a function uses the multiprocessors."""
    if (library, function) in EXTRA:
        return (library, function) not in HOST_ONLY
    return library not in tables.SHORT_NAMES or not roles.without_lease(tables.SHORT_NAMES[library], function)


# An executor process holds one session, so one server.
_server: Server | None = None


def _of_session(context: Context) -> Server:
    global _server
    if _server is None:
        _server = Server(context)
    return _server


def serve(context: Context, library: str, function: str, arguments: list[Any]) -> Any:
    """Carry out a library call of this executor's session."""
    return _of_session(context).serve(context, library, function, arguments)


def prepare(context: Context, library: str, function: str, arguments: list[Any]) -> Repeat | None:
    """Return what carries out this very call again; see `Server.prepare`."""
    return _of_session(context).prepare(context, library, function, arguments)


def preload() -> None:
    """Import the libraries' modules, which takes as long as a context, and load what most functions use of them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if CUB in sys.modules and os.environ.get(OPEN_VARIABLE) == "1":
            warming.reduce_once(sys.modules[CUB])
