"""Who asks for the executor's cuTENSOR, and what the answer changes in CuPy's list of accelerators."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from migproxy_plugins.cupy import accelerators

from migproxy.errors import CudaError, SessionLost, UsageError
from migproxy.session.session import LibraryCallError


class Executor:
    """Answers, and counts how often it was asked."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.asked = 0

    def library_call(self, library: str, function: str, arguments: Any, **how: Any) -> int:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return 20401


def absent(kind: str = "ImportError") -> LibraryCallError:
    return LibraryCallError({"type": kind, "status": None, "message": "libcutensor.so.2: cannot open"})


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], Executor]:
    def make(failure: Exception | None) -> Executor:
        made = Executor(failure)
        monkeypatch.setattr(accelerators, "api", SimpleNamespace(library_call=made.library_call))
        monkeypatch.setattr(accelerators, "_reason", None)
        return made

    return make


def accelerator_module(*named: int) -> Any:
    """Return what stands for ``cupy._core._accelerator``; `used` is what its compiled users see."""
    module: Any = ModuleType("cupy._core._accelerator")
    module.ACCELERATOR_CUTENSOR = 2
    module.used = {kind: list(named) for kind in accelerators.KINDS}
    for kind in accelerators.KINDS:
        setattr(module, f"set_{kind}_accelerators", lambda names, kind=kind: module.used.update({kind: list(names)}))
        setattr(module, f"get_{kind}_accelerators", lambda kind=kind: module.used[kind])
    return module


@pytest.mark.parametrize("kind", ["ImportError", "ModuleNotFoundError"])
def test_without_cutensor_it_is_told_but_not_used(executor: Callable[..., Executor], kind: str) -> None:
    asked, module = executor(absent(kind)), accelerator_module(2, 1)
    accelerators.install(module)
    assert all(module.used[kind] == [1] for kind in accelerators.KINDS)
    assert module.get_reduction_accelerators() == [2, 1]
    module.set_reduction_accelerators(iter([1]))
    assert module.get_reduction_accelerators() == module.used["reduction"] == [1]
    with pytest.raises(ImportError, match=r"the executor has no cuTENSOR: libcutensor.so.2") as caught:
        accelerators.require(ModuleType("cupyx.cutensor"))
    assert caught.value.name == "cupyx.cutensor"
    assert asked.asked == 1


def test_with_cutensor_nothing_changes(executor: Callable[..., Executor]) -> None:
    asked, module = executor(None), accelerator_module(2)
    accelerators.install(module)
    accelerators.require(ModuleType("cupyx.cutensor"))
    assert module.used["routine"] is module.get_routine_accelerators()
    assert module.used["routine"] == [2]
    assert asked.asked == 1


def test_without_the_accelerator_nobody_asks(executor: Callable[..., Executor]) -> None:
    asked, module = executor(absent()), accelerator_module(1)
    accelerators.install(module)
    assert asked.asked == 0
    assert not accelerators.known_missing()


@pytest.mark.parametrize(
    "failure", [UsageError("no broker"), SessionLost("ended"), CudaError(100), absent("CuTensorError")]
)
def test_another_failure_is_not_taken_for_a_missing_library(
    executor: Callable[..., Executor], failure: Exception
) -> None:
    executor(failure)
    module = accelerator_module(2)
    accelerators.install(module)
    accelerators.require(ModuleType("cupyx.cutensor"))
    assert module.used["elementwise"] == [2]
