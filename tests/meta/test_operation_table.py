"""Every operation has its facts, one handler and one caller; numbers are unique and never reused."""

from __future__ import annotations

import ast
import hashlib

import pytest
from tree import ROOT, sources

from migproxy.abi.ops import OPERATIONS, Op
from migproxy.executor import dispatch

#: Operations without a caller in the function: padding, and counters for diagnosis.
INTERNAL = {Op.NOP, Op.STATISTICS}
#: Numbers that were once in use and are gone; they are never given out again.
RETIRED = {35, 39, 40, 41, 42, 24}


@pytest.fixture(scope="module", autouse=True)
def _handlers() -> None:
    dispatch.load_handlers()


def named_ops(*places: str) -> set[str]:
    """Return the operations that code names as ``Op.NAME``."""
    found = set()
    for path in sources(*places):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Op":
                found.add(node.attr)
    return found


def test_every_operation_has_its_facts() -> None:
    assert set(OPERATIONS) == set(Op)


def test_numbers_are_unique() -> None:
    tree = ast.parse((ROOT / "migproxy/abi/ops.py").read_text())
    enum = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Op")
    numbers = [
        node.value.value for node in enum.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]
    assert len(numbers) == len(Op)
    assert len(set(numbers)) == len(numbers)
    assert not set(numbers) & RETIRED


def test_numbers_stay_what_they_were() -> None:
    """The first ones as they were published; append, never renumber."""
    first = "".join(f"{op.value}={op.name};" for op in sorted(Op) if op < 49)
    assert hashlib.sha256(first.encode()).hexdigest()[:16] == "ca776116915a49b2"


def test_numbers_of_operations_that_are_gone_stay_unused() -> None:
    assert not {24, 35, 39, 40, 41, 42, 49} & set(map(int, Op))


def test_every_operation_has_a_handler() -> None:
    assert set(dispatch.HANDLERS) == set(Op)


def test_handler_modules_are_all_loaded() -> None:
    folder = ROOT / "migproxy/executor/handlers"
    registering = {path.stem for path in folder.glob("*.py") if "@handles(" in path.read_text()}
    assert registering == set(dispatch.HANDLER_MODULES)


def test_every_operation_is_submitted_by_the_functions_side() -> None:
    assert {op.name for op in set(Op) - INTERNAL} <= named_ops(
        "migproxy/session", "migproxy/jit", "migproxy/arena", "plugins"
    )


def test_a_second_handler_is_refused() -> None:
    with pytest.raises(ValueError, match="two handlers"):
        dispatch.handles(Op.LAUNCH)(lambda state, command: None)
