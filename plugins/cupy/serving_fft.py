"""cuFFT plans in the executor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from migproxy_plugins.cupy import jit_callbacks_unsafe
from migproxy_plugins.cupy.serving import Serving, serves

from migproxy.errors import ProtocolError

CUFFT = "cupy.cuda.cufft"
_EXECUTES = {41: "execC2C", 42: "execR2C", 44: "execC2R", 105: "execZ2Z", 106: "execD2Z", 108: "execZ2D"}
_DIRECTED = ("execC2C", "execZ2Z", "XtExec")


#: Plan → its callbacks, which cuFFT reads when the plan is made, and which stay until it is gone.
_callbacks: dict[int, list[jit_callbacks_unsafe.Callback]] = {}
_MOST_CALLBACKS = 16


class _Pointer:
    """An array as a real plan's ``fft`` sees it: something whose ``data.ptr`` is an address."""

    def __init__(self, address: int) -> None:
        self.ptr = address
        self.data = self


class _Prepared:
    """What `create` made: a bare handle, until a plan takes it over.

    Parameters
    ----------
    handle : int
        The real handle.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle


def _keep(server: Serving, number: Any, make: Callable[..., Any]) -> None:
    """Make a plan under a number that is new, or that stands for a prepared handle, which the plan takes over."""
    known = server.objects.get(server.integer(number))
    if known is None:
        plan = make()
    elif isinstance(known[1], _Prepared):
        plan = make(prealloc_plan=known[1].handle)
    else:
        raise ProtocolError(f"object {number:#x} exists")
    server.objects[number] = ("cufft plan", plan)


@serves(CUFFT, "create", host_only=True)
def _create(server: Serving, number: int) -> None:
    if server.integer(number) in server.objects:
        raise ProtocolError(f"object {number:#x} exists")
    server.objects[number] = ("cufft plan", _Prepared(server.module(CUFFT).create()))


@serves(CUFFT, "setAutoAllocation", host_only=True)
def _set_auto_allocation(server: Serving, number: int, allocate: int) -> None:
    server.module(CUFFT).setAutoAllocation(server.object(number).handle, server.integer(allocate))


@serves(CUFFT, "setJITCallback", host_only=True)
def _set_jit_callback(server: Serving, number: int, function: str, image: bytes, kind: int, data: int) -> None:
    """Link the function's compiled callback, LTO-IR, into a plan; `data` is an address that its threads get."""
    if not isinstance(function, str) or not isinstance(image, bytes):
        raise ProtocolError("a callback is a name and an image")
    if len(_callbacks.get(number, ())) >= _MOST_CALLBACKS:
        raise ProtocolError(f"plan {number:#x} has {_MOST_CALLBACKS} callbacks already")
    if server.integer(data):
        server.context.check_range(data, 1)
    module, prepared = server.module(CUFFT), server.object(number)
    if not isinstance(prepared, _Prepared):
        raise ProtocolError(f"object {number:#x} takes no callbacks")
    if server.software:
        module.setJITCallback(prepared.handle, function, image, server.integer(kind), data)
        return
    callback = jit_callbacks_unsafe.Callback(function, image, data)
    module.check_result(jit_callbacks_unsafe.set_callback(prepared.handle, server.integer(kind), callback))
    # One plan's callbacks are one for each kind; that it could be set twice is no reason to let go of the first.
    _callbacks.setdefault(number, []).append(callback)


@serves(CUFFT, "Plan1d", host_only=True)
def _plan_1d(server: Serving, number: int, nx: int, fft_type: int, batch: int) -> None:
    _keep(server, number, partial(server.module(CUFFT).Plan1d, nx, fft_type, batch))


@serves(CUFFT, "PlanNd", host_only=True)
def _plan_nd(server: Serving, number: int, *arguments: Any) -> None:
    _keep(server, number, partial(server.module(CUFFT).PlanNd, *arguments))


@serves(CUFFT, "XtPlanNd", host_only=True)
def _xt_plan_nd(server: Serving, number: int, *arguments: Any) -> None:
    *positional, order, last_axis, last_size = arguments
    made = server.module(CUFFT).XtPlanNd
    _keep(server, number, partial(made, *positional, order=order, last_axis=last_axis, last_size=last_size))


@serves(CUFFT, "destroyPlan", host_only=True)
def _destroy(server: Serving, number: int) -> None:
    server.objects.pop(number, None)
    _callbacks.pop(number, None)


@serves(CUFFT, "fft")
def _fft(server: Serving, number: int, source: int, target: int, direction: int) -> None:
    plan = server.object(number)
    for address in (source, target):
        server.context.check_range(server.integer(address), 1)
    if server.software:
        server.module(CUFFT).XtExec(plan.handle, source, target, direction)
    else:
        plan.fft(_Pointer(server.integer(source)), _Pointer(server.integer(target)), direction)


def _execute(name: str) -> Any:
    def execute(server: Serving, number: int, source: int, target: int, direction: int = 0) -> None:
        arguments = (server.integer(direction),) if name in _DIRECTED else ()
        for address in (source, target):
            server.context.check_range(server.integer(address), 1)
        getattr(server.module(CUFFT), name)(server.object(number).handle, source, target, *arguments)

    return execute


for _name in (*_EXECUTES.values(), "XtExec"):
    serves(CUFFT, _name)(_execute(_name))
