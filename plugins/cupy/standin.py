"""Stand-ins for CuPy's library modules, synthesised from the recorded tables.

A stand-in has every public name of the real module: constants, error classes with the real messages, and for each
function a Python function with the real arguments, which travels to the executor by the roles of its arguments
(`roles`). Functions are made when they are first asked for, since CuPy uses few of the hundreds. What has no entry is
refused by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

from migproxy_plugins.cupy import calls, checks, patching, remembered, roles, signatures, tables
from migproxy_plugins.cupy import objects_unsafe as raw
from migproxy_plugins.cupy.roles import NOT_SUPPORTED, Kind

from migproxy.session.api import streams

#: As CuPy's messages spell them.
LIBRARY_NAMES = {"cublas": "cuBLAS", "cusolver": "cuSOLVER", "cusparse": "cuSPARSE", "curand": "cuRAND"}
#: cuRAND's functions that draw pairs.
EVEN_ONLY = frozenset({"generateNormal", "generateNormalDouble", "generateLogNormal", "generateLogNormalDouble"})
_HOST_MODE = 0


def error_class(module: str, name: str, facts: dict[str, Any]) -> type[RuntimeError]:
    """Make a library's error class with the messages of the real one."""
    messages = {int(status): text for status, text in facts["messages"].items()}
    attribute = (facts.get("attributes") or ["status"])[0]

    def init(self: Any, status: int) -> None:
        setattr(self, attribute, status)
        RuntimeError.__init__(self, messages.get(status, f"status {status}"))

    def reduce(self: Any) -> tuple[Any, tuple[int]]:
        return type(self), (getattr(self, attribute),)

    return type(name, (RuntimeError,), {"__init__": init, "__reduce__": reduce, "__module__": module})


def _even(name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse odd counts as CuPy's module does, before the library sees them."""

    def call(generator: int, output: int, count: int, *parameters: Any) -> Any:
        if count % 2 == 1:
            shown = f"curand{name[0].upper()}{name[1:]}"
            raise ValueError(
                f"{shown} can only generate even number of random variables simultaneously. See issue #390 for detail."
            )
        return handler(generator, output, count, *parameters)

    return call


class Library:
    """What the functions of one stand-in share.

    Parameters
    ----------
    module : ModuleType
        The stand-in, already holding constants and classes.
    facts : dict
        Its table.
    """

    def __init__(self, module: ModuleType, facts: dict[str, Any]) -> None:
        self.name: str = facts["module"]
        self.short = tables.SHORT_NAMES[self.name]
        self.module = module
        self.facts = facts
        self.errors: dict[str, Any] = {
            name: vars(module)[name] for name, entry in facts["classes"].items() if "messages" in entry
        }
        self.pointer_modes: dict[int, int] = {}
        self.streams: dict[int, int] = {}
        self.answers: dict[Any, Any] = {}
        #: What made and changed each object whose facts answers depend on.
        self.objects: dict[Any, tuple[Any, ...]] = {}
        #: Functions of a hand-written stand-in that are refused by name.
        self.refused_names: set[str] = set()

    def refuse_capture(self, stream: int) -> None:
        """Raise what the real module raises while the stream is captured: CuPy does not let these libraries into
        graphs.
        """
        if stream and streams.stream_capture_status(stream):
            shown = LIBRARY_NAMES[self.short]
            raise NotImplementedError(f"calling {shown} API during stream capture is currently unsupported")

    def call(self, function: str, arguments: Any, *, wait: bool) -> Any:
        """Call the executor's function of this library."""
        lease = not roles.without_lease(self.short, function)
        return calls.call(self.name, function, arguments, self.errors, wait=wait, lease=lease)

    def refused(self, function: str) -> Callable[..., NoReturn]:
        """Return a function that refuses every call with the library's not-supported error."""
        status = NOT_SUPPORTED.get(self.short)
        error = next(iter(self.errors.values()), None)

        def refuse(*_: Any) -> NoReturn:
            if error is None or status is None:
                raise NotImplementedError(f"{self.name}.{function} is not remote")
            raise error(status)

        return refuse

    def handler(self, signature: signatures.Signature) -> Callable[..., Any]:
        """Return what carries a function's converted arguments to the executor."""
        return self._checked(signature, self._unchecked(signature))

    def _checked(self, signature: signatures.Signature, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return `handler` behind what the library itself checks before it does anything."""
        check = checks.check(self.short, signature)
        if check is None:
            return handler
        error = next(iter(self.errors.values()))

        def checked(*arguments: Any) -> Any:
            status = check(*arguments)
            if status:
                raise error(status)
            return handler(*arguments)

        return checked

    def _unchecked(self, signature: signatures.Signature) -> Callable[..., Any]:
        special = getattr(self, f"_local_{signature.name}", None)
        if special is not None:
            return special  # type: ignore[no-any-return]
        made = self._remote(signature)
        if self.short == "curand" and signature.name in EVEN_ONLY:
            made = _even(signature.name, made)
        if not roles.works_on_stream(self.short, signature):
            return made

        def on_stream(*arguments: Any) -> Any:
            if streams.capturing():
                self.refuse_capture(raw.current_stream())
            return made(*arguments)

        return on_stream

    def _remote(self, signature: signatures.Signature) -> Callable[..., Any]:
        found = roles.roles(self.short, signature)
        name, call = signature.name, self.call
        if any(role.kind is Kind.UNDECIDED for role in found):
            return self.refused(name)
        if roles.creates(signature):

            def create(*arguments: Any) -> int:
                number = calls.new_object()
                call(name, (number, *self._outgoing(name, names, found, arguments)[0]), wait=False)
                if arguments:
                    self.objects[number] = (roles.plain_facts(self.short, signature, arguments),)
                return number

            names = [argument.name for argument in signature.arguments]
            return create
        if roles.destroys(signature):
            return partial(self._destroy, name)
        if roles.changes(self.short, signature):

            def change(*arguments: Any) -> None:
                call(name, arguments, wait=False)
                fact = roles.plain_facts(self.short, signature, arguments)
                others = (known for known in self.objects.get(arguments[0], ()) if known[:-1] != fact[:-1])
                self.objects[arguments[0]] = (*others, fact)

            return change
        send = self._sender(signature, found)
        return self._kept(signature, send) if roles.may_keep(self.short, name) else send

    def _sender(self, signature: signatures.Signature, found: tuple[roles.Role, ...]) -> Callable[..., Any]:
        """Return what sends a call, and waits for its result if it has one."""
        name, call = signature.name, self.call
        waits = signature.result not in ("", "void")
        if all(role.kind in (Kind.VALUE, Kind.OBJECT, Kind.POINTER) for role in found):
            return lambda *arguments: call(name, arguments, wait=waits)
        names = [argument.name for argument in signature.arguments]

        def with_memory(*arguments: Any) -> Any:
            outgoing, outs = self._outgoing(name, names, found, arguments)
            answer = call(name, outgoing, wait=waits or bool(outs))
            if not outs:
                return answer
            for address, data in zip(outs, answer[1], strict=True):
                raw.write_host(address, data)
            return answer[0]

        return with_memory

    def _kept(self, signature: signatures.Signature, send: Callable[..., Any]) -> Callable[..., Any]:
        """Return the handler of a query whose answers are kept, so that asking again needs no reply."""

        def ask(*arguments: Any) -> Any:
            key = roles.answer_key(self.short, signature, arguments, self.objects.get)
            if key not in self.answers:
                answer = send(*arguments)
                self.answers[key] = tuple(answer) if isinstance(answer, list) else answer
            return self.answers[key]

        return ask

    def _destroy(self, name: str, number: int) -> None:
        self.pointer_modes.pop(number, None)
        self.streams.pop(number, None)
        self.objects.pop(number, None)
        calls.release(self.name, name, (number,))

    def _outgoing(
        self, name: str, names: list[str], found: tuple[roles.Role, ...], arguments: tuple[Any, ...]
    ) -> tuple[list[Any], list[int]]:
        """Return the arguments as they travel, and the addresses that wait for results."""
        outgoing: list[Any] = []
        outs: list[int] = []
        values = dict(zip(names, arguments, strict=True))
        device_mode = False
        if any(role.moded for role in found):
            device_mode = self.pointer_modes.get(arguments[0], _HOST_MODE) != _HOST_MODE
        for role, value in zip(found, arguments, strict=True):
            if role.kind is Kind.COMPLEX:
                outgoing.append({"__complex__": [complex(value).real, complex(value).imag]})
            elif role.size is None or value == 0 or (role.moded and device_mode):
                outgoing.append(value)
            else:
                size = role.size(name, values)
                if role.kind is Kind.IN:
                    outgoing.append(raw.read_host(value, size))
                elif role.kind is Kind.OUT:
                    outgoing.append({"__out__": size})
                    outs.append(value)
                else:
                    outgoing.append({"__scratch__": size})
        return outgoing, outs

    # -- what the function's side knows itself ---------------------------------------------------------------------
    def _local_check_status(self, status: int) -> None:
        if status != 0:
            raise next(iter(self.errors.values()))(status)

    def _local_setPointerMode(self, handle: int, mode: int) -> None:
        self.call("setPointerMode", (handle, mode), wait=False)
        self.pointer_modes[handle] = mode

    def _local_getPointerMode(self, handle: int) -> int:
        return self.pointer_modes.get(handle, _HOST_MODE)

    def _local_setStream(self, handle: int, stream: int) -> None:
        self.refuse_capture(stream)
        # The executor sets the stream of each call; what is set here only shows in `getStream`.
        self.streams[handle] = stream

    def _local_getStream(self, handle: int) -> int:
        return self.streams.get(handle, 0)

    _local_spSetStream = _local_setStream
    _local_spGetStream = _local_getStream

    def _local_check_availability(self, name: str) -> bool:
        return bool(self.call("check_availability", (name,), wait=True))


def _record_class(module: str, name: str, facts: dict[str, Any]) -> type:
    """Make a class that only carries named values, such as ``CsrAttributes``."""
    fields = [argument.name for argument in signatures.parse(facts["doc"]).arguments]

    def init(self: Any, *values: Any) -> None:
        for field, value in zip(fields, values, strict=True):
            setattr(self, field, value)

    return type(name, (), {"__init__": init, "__slots__": tuple(fields), "__module__": module, "__doc__": facts["doc"]})


def base_module(name: str) -> tuple[ModuleType, dict[str, Any]]:
    """Return a module with a table's constants and classes, and the table."""
    facts = tables.table(name)
    module = ModuleType(name, f"Stand-in for {name}: its calls are carried out by the executor.")
    namespace = vars(module)
    namespace.update(facts["constants"])
    for table, pairs in facts["tables"].items():
        namespace[table] = dict(pairs)
    for class_name, entry in facts["classes"].items():
        if "messages" in entry:
            namespace[class_name] = error_class(name, class_name, entry)
    for function, value in facts["values"].items():
        namespace[function] = lambda value=value: value
    return module, facts


def make(name: str) -> ModuleType:
    """Return the stand-in of a module whose functions all go by value.

    Parameters
    ----------
    name : str
        The real module's dotted name.
    """
    module, facts = base_module(name)
    namespace = vars(module)
    library = Library(module, facts)
    for class_name, entry in facts["classes"].items():
        if class_name not in namespace:
            namespace[class_name] = _record_class(name, class_name, entry)

    def make_attribute(attribute: str) -> Any:
        if attribute == "__pyx_capi__":
            return capsules(module, library)
        doc = facts["functions"].get(attribute)
        if doc is None:
            if attribute in facts["modules"]:
                __import__(facts["modules"][attribute])
                value: Any = sys.modules[facts["modules"][attribute]]
            else:
                raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        else:
            signature = signatures.parse(doc)
            function = signatures.python_function(
                signature,
                decoded(library, signature),
                namespace,
                doc=doc,
                module=name,
                releases=roles.destroys(signature),
            )
            value = remembered.quick(library, signature, function, namespace, doc=doc, module=name)
        namespace[attribute] = value
        return value

    namespace["__getattr__"] = make_attribute
    namespace["__dir__"] = lambda: sorted({*namespace, *facts["functions"], *facts["modules"]})
    namespace["__all__"] = sorted(
        public for public in {*facts["constants"], *facts["functions"], *facts["classes"]} if public[0] != "_"
    )
    namespace["_migproxy_library"] = library
    return module


def unavailable(name: str) -> NoReturn:
    """Refuse to import a module whose library is not remote: CuPy then does without it, as where it is not
    installed.
    """
    raise ImportError(f"{name} is refused by name: migproxy does not carry this library's calls", name=name)


def publish(module: ModuleType, library: Library, handlers: dict[str, Callable[..., Any]]) -> None:
    """Give a stand-in its Python functions and capsules from handlers that take the converted arguments.

    Functions of the table without a handler are refused by name; modules that the real one exposes are found on demand.
    """
    namespace, facts = vars(module), library.facts
    made: dict[str, Callable[..., Any]] = {}
    for name, doc in facts["functions"].items():
        if name in facts["values"]:
            continue
        signature = signatures.parse(doc)
        made[name] = handlers.get(name) or library.refused(name)
        if name not in handlers:
            library.refused_names.add(name)
        namespace[name] = signatures.python_function(signature, made[name], namespace, doc=doc, module=library.name)

    def make_attribute(attribute: str) -> Any:
        if attribute == "__pyx_capi__":
            return capsules(module, library, made)
        if attribute in facts["modules"]:
            __import__(facts["modules"][attribute])
            return sys.modules[facts["modules"][attribute]]
        raise AttributeError(f"module {library.name!r} has no attribute {attribute!r}")

    namespace["__getattr__"] = make_attribute
    namespace["_migproxy_library"] = library


def decoded(library: Library, signature: signatures.Signature) -> Callable[..., Any]:
    """Return a function's handler, with a record class's instance made from the values that came back."""
    handler = library.handler(signature)
    record = library.facts["classes"].get(signature.result)
    if record is None or "messages" in record:
        return handler
    make_record = vars(library.module)[signature.result]
    return lambda *arguments: make_record(*handler(*arguments))


def capsules(
    module: ModuleType, library: Library, handlers: dict[str, Callable[..., Any]] | None = None
) -> dict[str, object]:
    """Make the stand-in's C functions, for compiled modules that import them."""
    facts = library.facts
    wanted: dict[str, Callable[..., Any]] = {}
    for name in facts["capsules"]:
        if handlers is not None and name in handlers:
            wanted[name] = handlers[name]
        elif name in facts["functions"] and name not in facts["values"]:
            signature = signatures.parse(facts["functions"][name])
            handler = decoded(library, signature)
            wanted[name] = remembered.quick(library, signature, handler, vars(module), module=library.name)
    made = patching.make_capsules(facts["capsules"], wanted)
    vars(module)["__pyx_capi__"] = made
    return made
