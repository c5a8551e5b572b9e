"""Where the processes that migproxy starts look for modules: this package first, then where their starter looked."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

#: This package's folder.
_PACKAGE = Path(__file__).resolve().parent


def python_path(inherited: str) -> str:
    """Return the PYTHONPATH of a broker or an executor; empty for none.

    A library that is found by a PYTHONPATH, as in a container with ``pip install --target``, is for the executor to
    import too. Its entries are made absolute, since an executor's working directory is another one.

    Parameters
    ----------
    inherited : str
        PYTHONPATH of the process that starts it.
    """
    root = str(_PACKAGE.parent)
    # From a source tree, what is started must find the same package.
    paths = [] if root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")) else [root]
    for each in inherited.split(os.pathsep) if inherited else []:
        path = os.path.abspath(each)
        # What wakes functions lies inside the package, and is not for others.
        if path not in paths and _PACKAGE not in Path(path).parents:
            paths.append(path)
    return os.pathsep.join(paths)
