"""Where brokers and executors look for modules."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

from migproxy import python_path as module
from migproxy.broker.supervisor import executor_environment
from migproxy.cli.function_environment import SOURCE_TREE_PATH
from migproxy.device.inventory import Slice
from migproxy.python_path import python_path

ROOT = str(Path(module.__file__).parents[1])


@pytest.fixture(autouse=True)
def source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/installed")


def test_a_source_tree_comes_first_and_what_the_starter_had_follows(tmp_path: Path) -> None:
    given = os.pathsep.join((str(tmp_path), ROOT, str(tmp_path)))
    assert python_path(given).split(os.pathsep) == [ROOT, str(tmp_path)]
    assert python_path("") == ROOT


def test_entries_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert python_path("libraries").split(os.pathsep)[1] == str(tmp_path / "libraries")


def test_what_wakes_functions_is_left_out() -> None:
    assert python_path(SOURCE_TREE_PATH) == ROOT


def test_an_installed_package_needs_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: ROOT)
    assert python_path("") == ""


def test_executors_have_the_brokers_path(tmp_path: Path) -> None:
    env = executor_environment(Slice("software", "software", "", 1 << 30), {"PYTHONPATH": str(tmp_path)})
    assert env["PYTHONPATH"].split(os.pathsep) == [ROOT, str(tmp_path)]
