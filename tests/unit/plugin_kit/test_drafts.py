"""Drafts of tables, from Python signatures, from docstrings and from capsules."""

from __future__ import annotations

from types import ModuleType

import pytest

from migproxy.abi.tables import Kind, Table
from migproxy.errors import UsageError
from migproxy.plugin_kit import drafts


def drafted(source: str) -> Table:
    """Return the table that a draft defines."""
    scope: dict[str, object] = {}
    exec(source, scope)
    found = scope["TABLE"]
    assert isinstance(found, Table)
    return found


def test_a_plain_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("somelib")
    exec(
        "def create() -> int: ...\n"
        "def destroy(handle): ...\n"
        "def set_stream(handle, stream): ...\n"
        "def scale(handle, n: int, alpha: float, x, flags=0): ...\n"
        "class Error(Exception): ...\n"
        "def _private(): ...\n",
        vars(module),
    )
    for value in vars(module).values():
        if hasattr(value, "__module__"):
            value.__module__ = "somelib"
    monkeypatch.setitem(__import__("sys").modules, "somelib", module)
    table = drafted(drafts.draft("somelib"))
    assert set(table.operations) == {"create", "destroy", "set_stream", "scale"}
    assert table.operations["create"].makes == "handle"
    assert table.operations["set_stream"].stream_role == "set"
    scale = table.operations["scale"].arguments
    assert [argument.kind for argument in scale[:4]] == [Kind.HANDLE, Kind.INTEGER, Kind.NUMBER, Kind.DEVICE]
    assert scale[4].default == 0
    assert table.operations["destroy"].arguments[0].ends


def test_docstrings_of_compiled_functions() -> None:
    module = ModuleType("compiled")

    def gemm() -> None:
        """gemm(intptr_t handle, int m, size_t workspace_size, intptr_t a, float tol=0.5) -> int"""

    gemm.__module__ = "compiled"
    module.gemm = gemm  # type: ignore[attr-defined]
    (found,) = drafts.functions(module)
    assert found.told_by == "docstring"
    assert found.result == "int"
    assert found.arguments[2] == ("size_t", "workspace_size", None)
    assert found.arguments[4] == ("float", "tol", "0.5")


def test_a_module_of_cython() -> None:
    pytest.importorskip("cuda.bindings")
    source = drafts.draft("cuda.bindings.cynvrtc")
    assert 'Operation("nvrtcCompileProgram"' in source


def test_what_cannot_be_drafted() -> None:
    with pytest.raises(UsageError, match="cannot be imported"):
        drafts.draft("no_such_module_at_all")
    with pytest.raises(UsageError, match="no functions"):
        drafts.draft("migproxy.abi")
