"""Native and function processes for the pytest plugin."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from migproxy.calling import call_in_process
from migproxy.cli.function_environment import function_environment
from migproxy.session import connect
from migproxy.testing.pairs import Comparison, compare


def functions_environment(parent_pid: int) -> dict[str, str]:
    """Return the environment of function processes, with a broker that was found or started for `parent_pid`."""
    path = connect.find_broker() or connect.start_private_broker(
        device=os.environ.get(connect.DEVICE_VARIABLE) or "auto", parent_pid=parent_pid
    )
    # One function for the whole tree: workers share its quota.
    return function_environment(path, function_id=os.environ.get(connect.FUNCTION_VARIABLE, ""))


@dataclass(frozen=True, slots=True)
class Pair:
    """One callable, natively and proxied.

    Attributes
    ----------
    native, proxied : object
        The last results.
    comparison : Comparison
        Times of the calls alone, process starts left out.
    """

    native: Any
    proxied: Any
    comparison: Comparison


def _timed(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, float]:
    """Run in the child: a first call for everything that happens once, then the one that counts."""
    function(*args, **kwargs)
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - start


def pair(function: Callable[..., Any], *args: Any, rounds: int = 5, **kwargs: Any) -> Pair:
    """Call `function` in `rounds` pairs of processes, native and proxied in alternating order.

    Parameters
    ----------
    function : callable
        Anything that dill can pickle; it should wait for its GPU work, or its time means little.
    rounds : int
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY_")}
    proxied_env = functions_environment(os.getpid())
    times: dict[str, list[float]] = {"native": [], "proxied": []}
    results: dict[str, Any] = {}
    for number in range(rounds):
        order = ("native", "proxied") if number % 2 == 0 else ("proxied", "native")
        for mode in order:
            env = plain if mode == "native" else proxied_env
            results[mode], seconds = call_in_process(env, _timed, function, args, kwargs)
            times[mode].append(seconds)
    name = getattr(function, "__name__", "callable")
    return Pair(results["native"], results["proxied"], compare(name, times["native"], times["proxied"]))


def child_environment(mode: str, outcomes: str, function_env: dict[str, str]) -> dict[str, str]:
    """Return the environment of one child of a ``both`` run."""
    from migproxy.testing.plugin import OUTCOMES_VARIABLE

    if mode == "proxied":
        env = dict(function_env)
    else:
        env = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY_")}
    env[OUTCOMES_VARIABLE] = outcomes
    return env
