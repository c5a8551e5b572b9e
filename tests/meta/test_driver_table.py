"""The cuda plugin's table of the driver API against the installed cuda-bindings, as sets: a new release shows what
it adds."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from migproxy_plugins.cuda import registry, treatment
from migproxy_plugins.cuda.rules import RULES

MAJORS = (12, 13)


def installed(module: str) -> tuple[int, dict[str, str]]:
    """Return major version and capsule table of a cuda-bindings module, read in a child that is not interposed."""
    bindings = pytest.importorskip("cuda.bindings")
    script = (
        "import importlib, json\n"
        "from migproxy.interpose import capsules\n"
        f"print(json.dumps(capsules.read(importlib.import_module('cuda.bindings.{module}'))))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    import json

    return int(bindings.__version__.split(".")[0]), json.loads(run.stdout)


def arguments(entry: dict[str, Any]) -> int:
    return len(entry["arguments"])


def check_names(api: Any, module: str) -> None:
    """Compare the table's names with the installed library's; a minor version may lack some of the table's."""
    major, capsules = installed(module)
    known = treatment.table(api, major)["functions"]
    assert set(capsules) - set(known) == set(), "run tools/make_cuda_tables.py: the library has new functions"
    version = treatment.table(api, major)["library"].split()[1]
    import cuda.bindings

    if cuda.bindings.__version__ == version:
        assert set(known) == set(capsules)
    for name, text in capsules.items():
        inside = text[text.index("(") + 1 : text.rindex(")")]
        count = 0 if inside in ("", "void") else inside.count(",") + 1
        assert count == arguments(known[name]), name


def test_names_and_arguments() -> None:
    check_names("driver", "cydriver")


@pytest.mark.parametrize("major", MAJORS)
def test_every_function_has_one_treatment(major: int) -> None:
    functions = treatment.table("driver", major)["functions"]
    treated = {name: treatment.driver_treatment(name) for name in functions}
    assert all(why for kind, why in treated.values() if kind == "refused")
    assert {name for name in RULES if name in functions and treated[name][0] == "refused"} == set()


def test_adapters_are_of_functions_that_exist() -> None:
    known = {name for major in MAJORS for name in treatment.table("driver", major)["functions"]}
    # Entry points under names that only older or newer minor versions export.
    versions = {
        "cuLaunchHostFunc_v2",
        "cuStreamGetCaptureInfo_v2",
        "cuStreamGetCaptureInfo_v3",
        "cuGraphInstantiateWithFlags",
    }
    without_suffix = {name for name in registry.load() if name not in known} - versions
    assert {name for name in without_suffix if name.partition("_v")[0] not in known} == set()


@pytest.mark.parametrize("major", MAJORS)
def test_adapters_take_the_arguments_of_every_release(major: int) -> None:
    for name, entry in treatment.table("driver", major)["functions"].items():
        adapter = registry.load().get(name)
        if adapter is not None:
            inspect.signature(adapter).bind(*range(arguments(entry)))
        elif name in RULES:
            # Newer versions of some take edge data before the count.
            extra = "count" in RULES[name]
            assert arguments(entry) in {len(RULES[name]), len(RULES[name]) + extra}, name


@pytest.mark.parametrize("api", ["driver", "runtime"])
@pytest.mark.parametrize("major", MAJORS)
def test_trampolines_exist_for_every_prototype(api: Any, major: int) -> None:
    """What the installed release's capsules are tested with end to end; here the other release's types."""
    from migproxy.jit.prototypes import parse_prototype

    structs_by_value = {"cudaChannelFormatDesc", "cudaExtent", "cudaPos", "cudaPitchedPtr"}
    for name, entry in treatment.table(api, major)["functions"].items():
        if entry["result"] in structs_by_value:
            continue
        text = ", ".join(ctype for ctype, _, _ in entry["arguments"]) or "void"
        assert len(parse_prototype(f"{entry['result']} ({text})").parameters) == arguments(entry), name
