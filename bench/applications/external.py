"""Programs of other repositories, which lie at a path that the caller names: NPBench and pyhpc-benchmarks.

Their files run unmodified. What NPBench's own harness does is done here anew: it reads a description per benchmark,
makes the data, copies arrays to the device before each invocation and times the call until it is done.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.applications.program import Program

PYHPC = {"equation_of_state": "eos", "isoneutral_mixing": "isoneutral"}
#: Elements of pyhpc-benchmarks' arrays, by preset.
PYHPC_SIZES = {"smoke": 1 << 8, "S": 1 << 14, "M": 1 << 20}


def _infos(root: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((root / "bench_info").glob("*.json")):
        info = json.loads(path.read_text())["benchmark"]
        folder = root / "npbench" / "benchmarks" / info["relative_path"]
        if (folder / f"{info['module_name']}_cupy.py").exists():
            found[path.stem] = info
    return found


def npbench_names(root: Path) -> list[str]:
    """Return NPBench's benchmarks that have a CuPy version.

    Raises
    ------
    FileNotFoundError
        There is no NPBench at `root`.
    """
    names = list(_infos(root))
    if not names:
        raise FileNotFoundError(f"{root} is no checkout of NPBench")
    return names


def _flat(results: Any) -> list[Any]:
    if results is None:
        return []
    return list(results) if isinstance(results, tuple | list) else [results]


def npbench(root: Path, name: str, preset: str) -> Program:
    """Return one benchmark of NPBench."""
    import cupy

    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    info = _infos(root)[name]
    module = f"npbench.benchmarks.{info['relative_path'].replace('/', '.')}.{info['module_name']}"
    function = getattr(importlib.import_module(f"{module}_cupy"), info["func_name"])
    data: dict[str, Any] = dict(info["parameters"]["S" if preset == "smoke" else preset])
    if info.get("init"):
        make = getattr(importlib.import_module(module), info["init"]["func_name"])
        made = make(*(data[each] for each in info["init"]["input_args"]))
        outputs = info["init"]["output_args"]
        data.update(zip(outputs, (made,) if len(outputs) == 1 else made, strict=True))

    def prepare() -> dict[str, Any]:
        arrays = {each: cupy.asarray(data[each]) for each in info["array_args"]}
        cupy.cuda.get_current_stream().synchronize()
        return {**data, **arrays}

    def run(prepared: dict[str, Any]) -> Sequence[Any]:
        results = function(*(prepared[each] for each in info["input_args"]))
        cupy.cuda.get_current_stream().synchronize()
        return [*_flat(results), *(prepared[each] for each in info.get("output_args", ()))]

    def by_numpy() -> Sequence[Any]:
        import numpy

        plain = getattr(importlib.import_module(f"{module}_numpy"), info["func_name"])
        arrays = {each: numpy.array(data[each]) for each in info["array_args"]}
        own = {**data, **arrays}
        results = plain(*(own[each] for each in info["input_args"]))
        outputs = [own[each] for each in info.get("output_args", ())]
        return [*_flat(results), *outputs, *(own[each] for each in info["array_args"])]

    def arrays(prepared: dict[str, Any]) -> Sequence[Any]:
        return [prepared[each] for each in info["array_args"]]

    return Program(f"{name}-{preset}", prepare, run, arrays=arrays, by_numpy=by_numpy)


def pyhpc(root: Path, name: str, preset: str) -> Program:
    """Return one benchmark of pyhpc-benchmarks."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    package = importlib.import_module(f"benchmarks.{name}")
    module = importlib.import_module(f"benchmarks.{name}.{PYHPC[name]}_cupy")
    inputs = module.prepare_inputs(*package.generate_inputs(PYHPC_SIZES[preset]), device="gpu")

    def run(_: Any) -> Sequence[Any]:
        return _flat(module.run(*inputs, device="gpu"))

    def by_numpy() -> Sequence[Any]:
        plain = importlib.import_module(f"benchmarks.{name}.{PYHPC[name]}_numpy")
        return _flat(plain.run(*package.generate_inputs(PYHPC_SIZES[preset]), device="cpu"))

    return Program(f"{name}-{preset}", lambda: None, run, by_numpy=by_numpy)
