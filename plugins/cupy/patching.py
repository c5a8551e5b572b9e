"""Replacing a compiled module's functions, as Python attributes and as C functions for other compiled modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import BuiltinFunctionType, ModuleType
from typing import Any

from migproxy_plugins.cupy import signatures
from migproxy_plugins.cupy.errors import NOT_SUPPORTED

from migproxy.interpose import capsules
from migproxy.jit.prototypes import UnsupportedPrototype

Handler = Callable[..., Any]


def attribute(module: ModuleType, name: str, handler: Handler) -> Callable[..., Any]:
    """Return the Python-level replacement of a module's function: same arguments, same docstring."""
    doc = getattr(vars(module)[name], "__doc__", None) or f"{name}(*args)"
    return signatures.function_of_line(doc.strip().split("\n")[0], handler, vars(module), doc=doc, name=name)


def patch_some(module: ModuleType, handlers: Mapping[str, Handler]) -> None:
    """Replace some functions of a module that otherwise stays real."""
    made = {name: attribute(module, name, handler) for name, handler in handlers.items() if name in vars(module)}
    exported = module.__pyx_capi__
    capsules.replace(module, {name: handler for name, handler in handlers.items() if name in exported})
    vars(module).update(made)


def patch(module: ModuleType, handlers: Mapping[str, Handler], stays: Collection[str]) -> None:
    """Replace every function of a module.

    Parameters
    ----------
    module : ModuleType
        It has just executed, and nobody has imported from it.
    handlers : mapping
        What carries out each function; called with all arguments, converted, in order.
    stays : collection of str
        Names that stay as they are. A name that is neither here nor in `handlers` is refused by name.
    """
    error = next(
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, RuntimeError)
    )

    def refused(name: str) -> Handler:
        def refuse(*_: Any) -> Any:
            raise error(NOT_SUPPORTED)

        refuse.__name__ = name
        return refuse

    names = {name for name, value in vars(module).items() if isinstance(value, BuiltinFunctionType)}
    names |= set(module.__pyx_capi__)
    names -= set(stays)
    patch_some(module, {name: handlers.get(name) or refused(name) for name in sorted(names)})


def make_capsules(prototypes: Mapping[str, str], handlers: Mapping[str, Handler]) -> dict[str, object]:
    """Return new capsules, by name, that call Python handlers.

    A function whose prototype has no trampoline is left out: a module that imports it fails loudly, at its import.

    Parameters
    ----------
    prototypes : mapping
        Name → C signature.
    handlers : mapping
        What carries out each function.
    """
    made: dict[str, object] = {}
    for name, handler in handlers.items():
        try:
            made.update(capsules.make({name: (prototypes[name], handler)}))
        except UnsupportedPrototype:
            continue
    return made
