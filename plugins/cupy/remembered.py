"""Library calls that were made before leave as the bytes that they left as then.

Loops make the same call on the same addresses again and again, and to convert, check and encode twenty arguments costs
more than all the rest of a call. What a call leaves as follows from its arguments and from the host memory that it
reads (alpha and beta), so it is looked up by these; all checks were passed then, and would be passed again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from migproxy_plugins.cupy import calls, roles, signatures
from migproxy_plugins.cupy import objects_unsafe as raw
from migproxy_plugins.cupy.roles import Kind, Role

from migproxy.session.api import streams

#: Calls that a function's memory holds, and of one call with different host memory.
MOST_CALLS = 4096
MOST_CONTENTS = 64
_FORMATS = {(8, True): "b", (16, True): "h", (32, True): "i", (64, True): "q", (8, False): "B", (16, False): "H"}
_FORMATS |= {(32, False): "I", (64, False): "Q"}
#: What changes a handle, mostly on this side only.
_SETS = re.compile(r"(sp)?set[A-Z]")
_TRAVEL = (Kind.VALUE, Kind.OBJECT, Kind.POINTER, Kind.IN, Kind.OUT)


class Library(Protocol):
    """What is used of a `standin.Library`."""

    name: str
    short: str
    errors: dict[str, Any]
    pointer_modes: dict[int, int]


class Memory:
    """What one function's calls left as.

    Parameters
    ----------
    library : Library
    signature : signatures.Signature
    found : tuple of Role
        The arguments' roles.
    """

    def __init__(self, library: Library, signature: signatures.Signature, found: tuple[Role, ...]) -> None:
        self._library, self._signature, self._roles = library, signature, found
        kept = [role.size is None for role in found]
        formats = [_format(argument.ctype) for argument in signature.arguments]
        self.layout = struct.Struct("<" + "".join(text for text, keep in zip(formats, kept, strict=True) if keep))
        self._kept = kept
        self.names = [argument.name for argument in signature.arguments]
        self.plain = [name for name, keep in zip(self.names, kept, strict=True) if keep]
        self.host = [name for name, keep in zip(self.names, kept, strict=True) if not keep]
        self.only_device_mode = any(role.kind is Kind.OUT for role in found)
        #: By the plain arguments: the sizes of the host memory, and by its contents what the call left as.
        self.known: dict[bytes, tuple[list[int], dict[Any, bytes]]] = {}
        self._seen: set[tuple[bytes, Any]] = set()

    def note(self, arguments: tuple[Any, ...]) -> None:
        """Remember a call that was just made, from the second time on."""
        plain = [value for value, keep in zip(arguments, self._kept, strict=True) if keep]
        host = [value for value, keep in zip(arguments, self._kept, strict=True) if not keep]
        device_mode = bool(self.host and self._library.pointer_modes.get(arguments[0], 0))
        if self.host and not device_mode and (self.only_device_mode or not all(host)):
            return
        try:
            key = self.layout.pack(*plain)
        except struct.error:  # what converts in another way than by its value
            return
        converted = iter(self.layout.unpack(key))
        values = {name: next(converted) for name in self.plain} | dict(zip(self.host, host, strict=True))
        sizes = [role.size(self._signature.name, values) for role in self._roles if role.size is not None]
        contents: Any = tuple(host)
        pieces = host
        if not device_mode:
            pieces = [raw.read_host(address, size) for address, size in zip(host, sizes, strict=True)]
            contents = b"".join(pieces)
        if (key, contents) not in self._seen:
            if len(self._seen) >= MOST_CALLS:
                self._seen.clear()
            self._seen.add((key, contents))
            return
        if len(self.known) >= MOST_CALLS:
            self.known.clear()
        payloads = self.known.setdefault(key, (sizes, {}))[1]
        if len(payloads) >= MOST_CONTENTS:
            payloads.clear()
        values |= dict(zip(self.host, pieces, strict=True))
        payloads[contents] = calls.encoded(
            self._library.name, self._signature.name, [values[name] for name in self.names]
        )


class Commands:
    """What calls of hand-written stand-ins left as, by what they follow from. All use the multiprocessors, and return
    nothing.

    Parameters
    ----------
    library : Library
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._known: dict[Any, bytes] = {}

    def post(self, key: tuple[Any, ...], arguments: Callable[[], Sequence[Any]]) -> None:
        """Make a call.

        Parameters
        ----------
        key : tuple
            The function's name, and all that its arguments follow from.
        arguments : callable
            Returns the arguments as they travel.
        """
        payload = self._known.get(key)
        if payload is None:
            payload = calls.encoded(self._library.name, key[0], arguments())
            if len(self._known) >= MOST_CALLS:
                self._known.clear()
            self._known[key] = payload
        calls.post(payload, self._library.errors)


def _format(ctype: str) -> str:
    if ctype in ("float", "double"):
        return "d"
    bits, signed = signatures.INTEGERS.get(ctype, (32, True))
    return _FORMATS[bits, signed]


def fits(short: str, signature: signatures.Signature) -> bool:
    """Tell whether a function's calls can be remembered: they work on a stream, return nothing, and take numbers and
    addresses only."""
    found = roles.roles(short, signature)
    return (
        roles.works_on_stream(short, signature)
        and _SETS.match(signature.name) is None
        and signature.result in ("", "void")
        and bool(signature.arguments)
        and all(role.kind in _TRAVEL and (role.size is None or role.moded) for role in found)
        and not (roles.changes(short, signature) or roles.may_keep(short, signature.name))
        and all(_is_number(argument) for argument in signature.arguments)
    )


def _is_number(argument: signatures.Argument) -> bool:
    # An argument without a declared type may be anything; bint takes anything that is true or false.
    numbers = {*signatures.INTEGERS, "float", "double"} - {"bint", "bool"}
    return not argument.keyword_only and (argument.ctype in numbers or _is_enumeration(argument.ctype))


def _is_enumeration(ctype: str) -> bool:
    return signatures.converter(ctype, "").__name__ == "integer" if signatures.converter(ctype, "") else False


def quick(
    library: Library,
    signature: signatures.Signature,
    slow: Callable[..., Any],
    namespace: Mapping[str, Any],
    *,
    doc: str | None = None,
    module: str = "",
) -> Callable[..., Any]:
    """Return `slow` behind a memory of its calls; `slow` itself if they cannot be remembered.

    Parameters
    ----------
    library : Library
    signature : signatures.Signature
    slow : callable
        Makes the call from its arguments.
    namespace : mapping
        Where names used as defaults are looked up.
    doc, module : str, optional
        Of the function that is returned.
    """
    if not fits(library.short, signature):
        return slow
    memory = Memory(library, signature, roles.roles(library.short, signature))

    def note(*arguments: Any) -> Any:
        result = slow(*arguments)
        memory.note(arguments)
        return result

    heads, scope = signatures.parameters(signature, namespace)
    names = ", ".join(memory.names)
    scope |= {
        "_pack": memory.layout.pack,
        "_known": memory.known,
        "_note": note,
        "_slow": slow,
        "_modes": library.pointer_modes,
        "_capturing": streams.capturing,
        "_post": calls.post,
        "_errors": library.errors,
        "_read": raw.read_host,
        "_failed": (KeyError, struct.error),
    }
    source = f"""def {signature.name}({heads}):
    try:
        sizes, payloads = _known[_pack({", ".join(memory.plain)})]
    except _failed:
        return _note({names})
{_contents(memory)}
    payload = payloads.get(contents)
    if payload is None:
        return _note({names})
    if _capturing():
        return _slow({names})
    _post(payload, _errors)
"""
    return signatures.compiled(signature, source, scope, doc=doc, module=module)


def _contents(memory: Memory) -> str:
    """Return the source that finds what stands for the host memory of a call."""
    if not memory.host:
        return '    contents = b""'
    names = ", ".join(memory.names)
    addresses = "".join(f"{name}, " for name in memory.host)
    read = " + ".join(f"_read({name}, sizes[{index}])" for index, name in enumerate(memory.host))
    host_mode = f"    elif {' and '.join(memory.host)}:\n        contents = {read}\n"
    return (
        f"    if _modes.get({memory.names[0]}):\n        contents = ({addresses})\n"
        + ("" if memory.only_device_mode else host_mode)
        + f"    else:\n        return _slow({names})"
    )
