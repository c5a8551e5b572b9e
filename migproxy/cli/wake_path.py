"""How a function's interpreter, and every Python process under it, comes to be interposed.

Installed, migproxy has a ``migproxy.pth`` beside it in site-packages. Run from a source tree there is none; then a
directory with a ``sitecustomize.py`` goes to the front of PYTHONPATH. See docs/decisions/broker-wake.md.
"""

from __future__ import annotations

import os
import site
import sysconfig
from pathlib import Path

#: Holds the fallback's sitecustomize.py.
SOURCE_TREE_PATH = Path(__file__).resolve().parent / "source_tree"
PTH_NAME = "migproxy.pth"


def pth_installed() -> bool:
    """Tell whether this interpreter reads migproxy.pth when it starts."""
    directories = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        directories.append(site.getusersitepackages())
    return any(os.path.exists(os.path.join(directory, PTH_NAME)) for directory in directories)


def add_wake_path(env: dict[str, str]) -> None:
    """Make sure that an interpreter started with `env` wakes the interposition."""
    if pth_installed():
        return
    paths = [str(SOURCE_TREE_PATH), env.get("PYTHONPATH", ""), str(SOURCE_TREE_PATH.parents[2])]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
