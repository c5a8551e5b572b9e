"""An executor without cuTENSOR: in the function CuPy does as it does natively where cuTENSOR is not installed.

There the import of ``cupy_backends.cuda.libs.cutensor`` fails, CuPy notes it once and for all when it is imported, and
the accelerator is ignored. In a function the executor's installation decides, and asking it opens the session, so it is
asked only when it matters: when cuTENSOR is named as an accelerator, or ``cupyx.cutensor`` is imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from migproxy.errors import MigproxyError
from migproxy.session import api
from migproxy.session.session import LibraryCallError

CUTENSOR = "cupy_backends.cuda.libs.cutensor"
KINDS = ("elementwise", "reduction", "routine")

#: Why the executor has no cuTENSOR, empty if it has; None as long as nobody asked.
_reason: str | None = None


def known_missing() -> str:
    """Return why the executor has no cuTENSOR; empty if it has, or nobody asked yet."""
    return _reason or ""


def missing() -> str:
    """Return why the executor has no cuTENSOR, empty if it has: the first caller asks."""
    global _reason
    if _reason is None:
        try:
            api.library_call(CUTENSOR, "get_version", (), stream=0, wait=True, lease=False)
        except LibraryCallError as error:
            absent = error.facts.get("type") in ("ImportError", "ModuleNotFoundError")
            _reason = f"the executor has no cuTENSOR: {error.facts.get('message', '')}" if absent else ""
        except MigproxyError:
            # What is wrong with the session is told by what needs it; importing CuPy does not.
            return ""
        else:
            _reason = ""
    return _reason


def require(module: ModuleType) -> None:
    """Make the import of ``cupyx.cutensor`` fail without cuTENSOR; called right after it executed."""
    reason = missing()
    if reason:
        raise ImportError(reason, name=module.__name__)


def tell(module: ModuleType) -> None:
    """Correct what ``cupy.cuda.cutensor`` says of itself; called right after it executed."""
    namespace = vars(module)
    if namespace.get("available") and missing():
        from cupy import _environment

        namespace["available"] = False
        _environment._preload_warning("cutensor", ImportError(missing()))


def install(module: ModuleType) -> None:
    """Make ``cupy._core._accelerator`` leave cuTENSOR out where there is none; called right after it executed."""
    for kind in KINDS:
        _install(module, f"set_{kind}_accelerators", f"get_{kind}_accelerators")


def _install(module: Any, setter: str, getter: str) -> None:
    """Replace one pair of functions: what is asked for is still told, but compiled code sees what there is."""
    set_used: Callable[[Iterable[Any]], None] = getattr(module, setter)
    used: Callable[[], list[int]] = getattr(module, getter)
    asked: list[int] | None = None

    @functools.wraps(set_used)
    def set_accelerators(accelerators: Iterable[Any]) -> None:
        nonlocal asked
        set_used(accelerators)
        asked, wanted = None, used()
        if module.ACCELERATOR_CUTENSOR in wanted and missing():
            set_used([each for each in wanted if each != module.ACCELERATOR_CUTENSOR])
            asked = wanted

    @functools.wraps(used)
    def get_accelerators() -> list[int]:
        return used() if asked is None else asked

    setattr(module, setter, set_accelerators)
    setattr(module, getter, get_accelerators)
    # CUPY_ACCELERATORS was read while the module executed.
    set_accelerators(used())
