"""The environment of a function: how its interpreter, and every Python process under it, comes to be interposed.

Installed, migproxy has a ``migproxy.pth`` beside it in site-packages. Run from a source tree there is none; then a
directory with a ``sitecustomize.py`` goes to the front of PYTHONPATH. See docs/decisions/broker-wake.md.
"""

from __future__ import annotations

import os

from migproxy.session import connect

#: Holds the fallback's sitecustomize.py.
SOURCE_TREE_PATH = os.path.join(os.path.dirname(os.path.realpath(__file__)), "source_tree")
PTH_NAME = "migproxy.pth"


def pth_installed() -> bool:
    """Tell whether this interpreter reads migproxy.pth when it starts."""
    import site
    import sysconfig

    directories = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        directories.append(site.getusersitepackages())
    return any(os.path.exists(os.path.join(directory, PTH_NAME)) for directory in directories)


def add_wake_path(env: dict[str, str]) -> None:
    """Make sure that an interpreter started with `env` wakes the interposition."""
    if pth_installed():
        return
    root = os.path.dirname(os.path.dirname(os.path.dirname(SOURCE_TREE_PATH)))
    paths = [SOURCE_TREE_PATH, env.get("PYTHONPATH", ""), root]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


def function_environment(broker: str, *, function_id: str = "", quota: int = 0, device: str = "") -> dict[str, str]:
    """Return this process's environment with what makes a Python process started in it a function.

    Parameters
    ----------
    broker : str
        The broker's socket; empty for a private one, which the function's first session starts.
    function_id : str, optional
        The function that the process belongs to; a new one when empty.
    quota : int, optional
        Device memory in bytes; 0 for what this environment says, else the broker's default.
    device : str, optional
        As ``migproxy run --device``; empty for what this environment says.
    """
    env = dict(os.environ) | function_variables(broker, function_id=function_id, quota=quota, device=device)
    add_wake_path(env)
    return env


def function_variables(broker: str, *, function_id: str = "", quota: int = 0, device: str = "") -> dict[str, str]:
    """Return the variables that make a process a function; the parameters are those of `function_environment`."""
    found = {
        connect.ACTIVE_VARIABLE: "1",
        connect.BROKER_VARIABLE: os.path.abspath(broker) if broker else "",
        connect.FUNCTION_VARIABLE: function_id or os.urandom(8).hex(),
        "CUDA_VISIBLE_DEVICES": "",
    }
    if device:
        found[connect.DEVICE_VARIABLE] = device
    if quota:
        found[connect.MEMORY_VARIABLE] = str(quota)
    return found
