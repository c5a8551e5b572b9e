"""Imports go one way: abi ← arena ← jit ← {interpose, session, executor}; functions never import what is privileged."""

from __future__ import annotations

from pathlib import Path

import pytest
from tree import ROOT, imports, module_of, name_of, sources

#: What each part may import of migproxy, beside itself. Parts that are not named here fail the test.
ALLOWED: dict[str, set[str]] = {
    # facts, and helpers without state
    "errors": set(),
    "sizes": {"errors"},
    "ending": set(),
    "python_path": set(),
    "abi": {"errors"},
    "distributions": set(),
    "versions": {"abi", "distributions", "errors"},
    # shared memory and machine code
    "arena": {"abi", "errors"},
    "jit": {"abi", "errors", "arena", "ending"},
    # the function's side
    "interpose": {"abi", "errors", "arena", "jit", "versions", "distributions", "ending"},
    "session": {
        "abi",
        "errors",
        "sizes",
        "versions",
        "distributions",
        "python_path",
        "ending",
        "arena",
        "jit",
        "softgpu.container",
    },
    "host_memory": {"errors", "session"},
    "startup": {"errors", "interpose", "cli.early"},
    # the devices
    "softgpu": {"errors", "jit"},
    "device": {"abi", "errors", "sizes"},
    # the privileged side
    "scheduler": {"abi"},
    "executor": {"abi", "errors", "sizes", "arena", "jit", "softgpu"},
    "broker": {"abi", "errors", "sizes", "versions", "python_path", "arena", "scheduler", "device", "__version__"},
    # what people start
    "calling": {"cli.function_environment", "errors", "session", "sizes"},
    "cli": {
        "abi",
        "errors",
        "sizes",
        "versions",
        "arena",
        "session",
        "device",
        "broker",
        "scheduler",
        "startup",
        "plugin_kit",
        "__version__",
    },
    "plugin_kit": {"abi", "errors", "interpose", "session", "executor", "testing", "cli.wake_path"},
    "testing": {"abi", "errors", "sizes", "session", "cli", "calling"},
    "__init__": {"calling", "host_memory", "interpose"},
    "__main__": {"cli"},
}
#: Modules of the software GPU that hold facts only: its image format, CUDA's table of errors.
FACTS = {"softgpu.container", "softgpu.errors_table"}
#: The function's half of a plugin may import these; its executor half the others.
PLUGIN_FUNCTION = {
    "abi",
    "errors",
    "sizes",
    "versions",
    "distributions",
    "arena",
    "jit",
    "interpose",
    "session",
    "host_memory",
    *FACTS,
}
PLUGIN_EXECUTOR = {
    "abi",
    "errors",
    "sizes",
    "versions",
    "distributions",
    "arena",
    "executor",
    "softgpu",
    "interpose.plugin",
}
#: Files of plugins that run in the executor; the others run in the function.
EXECUTOR_HALVES = ("executor.py", "serving.py", "native_unsafe.py")
#: Files of plugins that only the conformance kit imports: they look at both halves.
CHECKS = ("checking.py",)
PRIVILEGED = {"broker", "executor", "device", "scheduler"}
FUNCTION_SIDE = {"interpose", "session", "host_memory", "startup", "arena", "jit", "abi"}


def covered(module: str, allowed: set[str]) -> bool:
    """Tell whether ``a.b.c`` is one of `allowed` or below one."""
    parts = module.split(".")
    return any(".".join(parts[: length + 1]) in allowed for length in range(len(parts)))


def violations(path: Path, own: str, allowed: set[str]) -> list[str]:
    """Return what a file imports of migproxy beyond `allowed`."""
    wrong = []
    for line, module in imports(path):
        if not module.startswith("migproxy."):
            continue
        inner = module.removeprefix("migproxy.")
        if inner.split(".")[0] != own and not covered(inner, allowed):
            wrong.append(f"{name_of(path)}:{line} imports {module}")
    return wrong


def test_a_part_imports_only_what_lies_below_it() -> None:
    wrong = []
    for path in sources("migproxy"):
        own = path.relative_to(ROOT / "migproxy").with_suffix("").parts[0]
        assert own in ALLOWED, f"{own} is a new part: say in ALLOWED what it may import"
        wrong += violations(path, own, ALLOWED[own])
    assert not wrong


def test_plugins_keep_their_halves_apart() -> None:
    wrong = []
    for path in sources("plugins"):
        relative = path.relative_to(ROOT / "plugins").parts
        in_executor = relative[-1] in EXECUTOR_HALVES or "executor" in relative[:-1]
        allowed = PLUGIN_EXECUTOR if in_executor else PLUGIN_FUNCTION
        if relative[-1] in CHECKS:
            allowed = PLUGIN_EXECUTOR | PLUGIN_FUNCTION | {"plugin_kit"}
        wrong += violations(path, "", allowed)
    assert not wrong


def test_the_functions_side_may_not_reach_the_privileged_side() -> None:
    """Whatever the table above comes to say: through no chain of allowed imports."""
    reachable = set(FUNCTION_SIDE)
    waiting = list(reachable)
    while waiting:
        for part in ALLOWED[waiting.pop()]:
            if "." not in part and part not in reachable:
                reachable.add(part)
                waiting.append(part)
    assert not reachable & PRIVILEGED


def test_the_check_sees_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "migproxy" / "session"
    folder.mkdir(parents=True)
    file = folder / "bad.py"
    file.write_text(
        "import migproxy.broker.main\n"
        "from migproxy import executor\n"
        "from ..device import choose\n"
        "def later():\n    from migproxy.scheduler import policy\n"
        "from migproxy.session import connect\n"
        "from migproxy.softgpu import container, libcuda\n"
    )
    for module in ("tree", "test_import_directions"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    assert module_of(file) == "migproxy.session.bad"
    found = violations(file, "session", ALLOWED["session"])
    assert [each.rpartition(" ")[2] for each in sorted(found)] == [
        "migproxy.broker.main",
        "migproxy.executor",
        "migproxy.device.choose",
        "migproxy.scheduler.policy",
        "migproxy.softgpu.libcuda",
    ]
