"""cuFFT plans in the executor."""

from __future__ import annotations

from typing import Any

from migproxy_plugins.cupy.serving import Serving, serves

from migproxy.errors import ProtocolError

CUFFT = "cupy.cuda.cufft"
_EXECUTES = {41: "execC2C", 42: "execR2C", 44: "execC2R", 105: "execZ2Z", 106: "execD2Z", 108: "execZ2D"}
_DIRECTED = ("execC2C", "execZ2Z", "XtExec")


class _Pointer:
    """An array as a real plan's ``fft`` sees it: something whose ``data.ptr`` is an address."""

    def __init__(self, address: int) -> None:
        self.ptr = address
        self.data = self


def _keep(server: Serving, number: Any, plan: Any) -> None:
    if server.integer(number) in server.objects:
        raise ProtocolError(f"object {number:#x} exists")
    server.objects[number] = ("cufft plan", plan)


@serves(CUFFT, "Plan1d", host_only=True)
def _plan_1d(server: Serving, number: int, nx: int, fft_type: int, batch: int) -> None:
    _keep(server, number, server.module(CUFFT).Plan1d(nx, fft_type, batch))


@serves(CUFFT, "PlanNd", host_only=True)
def _plan_nd(server: Serving, number: int, *arguments: Any) -> None:
    _keep(server, number, server.module(CUFFT).PlanNd(*arguments))


@serves(CUFFT, "XtPlanNd", host_only=True)
def _xt_plan_nd(server: Serving, number: int, *arguments: Any) -> None:
    *positional, order, last_axis, last_size = arguments
    plan = server.module(CUFFT).XtPlanNd(*positional, order=order, last_axis=last_axis, last_size=last_size)
    _keep(server, number, plan)


@serves(CUFFT, "destroyPlan", host_only=True)
def _destroy(server: Serving, number: int) -> None:
    server.objects.pop(number, None)


@serves(CUFFT, "fft")
def _fft(server: Serving, number: int, source: int, target: int, direction: int) -> None:
    plan = server.object(number)
    if server.software:
        server.module(CUFFT).XtExec(plan.handle, source, target, direction)
    else:
        plan.fft(_Pointer(server.integer(source)), _Pointer(server.integer(target)), direction)


def _execute(name: str) -> Any:
    def execute(server: Serving, number: int, source: int, target: int, direction: int = 0) -> None:
        arguments = (direction,) if name in _DIRECTED else ()
        getattr(server.module(CUFFT), name)(server.object(number).handle, source, target, *arguments)

    return execute


for _name in (*_EXECUTES.values(), "XtExec"):
    serves(CUFFT, _name)(_execute(_name))
