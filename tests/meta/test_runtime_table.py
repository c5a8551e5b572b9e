"""The cuda plugin's table of the runtime API against the installed cuda-bindings, as sets."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest
from migproxy_plugins.cuda import runtime_adapters, runtime_entries, treatment

MAJORS = (12, 13)


def test_names() -> None:
    bindings = pytest.importorskip("cuda.bindings")
    script = "import json, cuda.bindings.cyruntime as m; print(json.dumps(sorted(m.__pyx_capi__)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    names, major = set(json.loads(run.stdout)), int(bindings.__version__.split(".")[0])
    table = treatment.table("runtime", major)
    assert names - set(table["functions"]) == set(), "run tools/make_cuda_tables.py: the library has new functions"
    if table["library"].endswith(bindings.__version__):
        assert names == set(table["functions"])


@pytest.mark.parametrize("major", MAJORS)
def test_every_function_has_one_treatment(major: int) -> None:
    for name in treatment.table("runtime", major)["functions"]:
        kind, why = runtime_entries.runtime_treatment(name)
        assert (kind == "refused") == bool(why), name


@pytest.mark.parametrize("major", MAJORS)
def test_adapters_take_the_arguments_of_every_release(major: int) -> None:
    for name, entry in treatment.table("runtime", major)["functions"].items():
        adapter = runtime_adapters.RUNTIME.get(name)
        if adapter is None and name in runtime_entries.SAME_AS_DRIVER:
            adapter = runtime_entries._driver_adapter(runtime_entries.SAME_AS_DRIVER[name])
        if adapter is not None:
            inspect.signature(adapter).bind(*range(len(entry["arguments"])))


def test_no_name_is_served_twice() -> None:
    assert set(runtime_adapters.RUNTIME) & set(runtime_entries.SAME_AS_DRIVER) == set()
    assert runtime_entries.UNTOUCHED & set(runtime_adapters.RUNTIME) == set()
    known = {name for major in MAJORS for name in treatment.table("runtime", major)["functions"]}
    assert set(runtime_entries.SAME_AS_DRIVER) - known == set()
    assert set(runtime_adapters.RUNTIME) - known == set()
