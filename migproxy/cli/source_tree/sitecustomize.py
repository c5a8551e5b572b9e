"""Stands in for migproxy.pth where migproxy runs from a source tree, then runs the sitecustomize that it hides, if
there is one."""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != _here]

if os.environ.get("MIGPROXY_ACTIVE") == "1":
    from migproxy.startup import start_function

    start_function()

_hidden = PathFinder.find_spec("sitecustomize", sys.path)
if _hidden is not None and _hidden.loader is not None:
    _module = importlib.util.module_from_spec(_hidden)
    sys.modules["sitecustomize"] = _module
    _hidden.loader.exec_module(_module)
