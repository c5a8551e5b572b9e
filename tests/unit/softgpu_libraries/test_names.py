"""Each module has exactly the names of CuPy's, and takes the same arguments in the same order."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from migproxy.softgpu import libraries
from migproxy.softgpu.libraries import names

PRESENT = sorted(set(libraries.MODULES.values()))


@pytest.mark.parametrize("library", PRESENT)
def test_same_functions(library):
    module = import_module(f"migproxy.softgpu.libraries.{library}")
    known = names.facts(library)
    for name in [*known["functions"], *names.older(library)]:
        assert callable(getattr(module, name)), name
    for name, value in known["constants"].items():
        assert getattr(module, name) == value, name
    for name in known["classes"]:
        assert hasattr(module, name), name


@pytest.mark.parametrize("library", PRESENT)
def test_same_arguments(library):
    module = import_module(f"migproxy.softgpu.libraries.{library}")
    wrong = []
    known = {**names.facts(library)["functions"], **names.older(library)}
    for name, text in known.items():
        if name in module.REFUSED:
            continue
        ours = list(inspect.signature(getattr(module, name)).parameters)
        theirs = [word for word in names.parameters(text) if word != "*"]
        # CuPy's typed variants of one function differ in a trailing A or a capital; callers pass arguments by position.
        if [word.rstrip("A").lower() for word in ours] != [word.rstrip("A").lower() for word in theirs]:
            wrong.append((name, ours, theirs))
    assert wrong == []


@pytest.mark.parametrize("library", PRESENT)
def test_refusal_names_itself(library):
    module = import_module(f"migproxy.softgpu.libraries.{library}")
    for name in module.REFUSED:
        with pytest.raises(Exception, match=f"{library}.{name} is not supported"):
            getattr(module, name)()


def test_every_module_of_the_map_is_recorded():
    modules = {names.facts(short)["module"] for short in libraries.MODULES.values()}
    assert modules == set(libraries.MODULES) - {"cupyx.cusolver"}
