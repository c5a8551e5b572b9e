"""Finding plugins: a broken one is named and left out, in function and executor; nothing is imported early."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from migproxy.abi.tables import INTERFACE_VERSION
from migproxy.distributions import Entry
from migproxy.errors import PluginError
from migproxy.executor import plugin_host
from migproxy.executor.dispatch import Refused
from migproxy.executor.plugin_host import PluginHost
from migproxy.interpose import wake
from migproxy.interpose.plugin import Plugin, later, load_tables


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that plugins are installed: name → the module that the entry point names."""

    def install(**modules: types.ModuleType | None) -> None:
        entries = []
        for name, module in modules.items():
            if module is not None:
                monkeypatch.setitem(sys.modules, f"plugin_{name}", module)
            entries.append(Entry(name, f"plugin_{name}"))
        monkeypatch.setattr(wake, "entry_points", lambda group: entries)
        monkeypatch.setattr(plugin_host, "entry_points", lambda group: entries)

    return install


def declared(name: str, **facts: Any) -> types.ModuleType:
    module = types.ModuleType(f"plugin_{name}")
    module.PLUGIN = Plugin(name, facts.pop("interface", INTERFACE_VERSION), **facts)  # type: ignore[attr-defined]
    return module


def test_broken_ones_are_named_and_left_out(installed: Any) -> None:
    silent = types.ModuleType("plugin_silent")
    installed(
        good=declared("good"),
        old=declared("old", interface=1),
        gone=None,
        silent=silent,
        liar=declared("honest"),
    )
    plugins, broken = wake.find_plugins()
    assert [plugin.name for plugin in plugins] == ["good"]
    said = sorted(str(error) for error in broken)
    assert len(said) == 4
    assert "'gone'" in said[0]
    assert "cannot be imported" in said[0]
    assert "calls itself 'honest'" in said[1]
    assert f"'old' was made for plugin interface 1; this migproxy has {INTERFACE_VERSION}" in said[2]
    assert "'silent'" in said[3]
    with pytest.raises(PluginError):
        wake.load_plugins()


def test_a_patch_that_fails_is_named() -> None:
    def broken(module: types.ModuleType) -> None:
        raise KeyError("cuInit")

    with pytest.raises(PluginError, match=r"plugin 'mine' cannot interpose some.lib: KeyError"):
        wake._named("mine", "some.lib", broken)(types.ModuleType("some.lib"))

    def refused(name: str) -> types.ModuleType:
        raise ImportError("refused by name")

    with pytest.raises(ImportError, match="refused by name"):
        wake._named("mine", "some.lib", refused)("some.lib")


def test_later_imports_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    call = later("late_module:install")
    assert "late_module" not in sys.modules
    late = types.ModuleType("late_module")
    late.install = lambda argument: argument + 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "late_module", late)
    assert call(4) == 5


def test_tables_are_a_sequence_or_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("plugin_tables")
    module.TABLES = ()  # type: ignore[attr-defined]
    module.make = lambda: []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plugin_tables", module)
    assert load_tables(Plugin("a", 2, tables="plugin_tables:TABLES")) == ()
    assert load_tables(Plugin("a", 2, tables="plugin_tables:make")) == ()
    assert load_tables(Plugin("a", 2)) == ()


class State:
    """What a host asks of a session."""

    driver = types.SimpleNamespace(kind="software")
    handles = None

    def stream(self, handle: int) -> int:
        return handle


def executor_half(monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> types.ModuleType:
    half = types.ModuleType(f"half_{name}")
    half.LIBRARIES = (library,)  # type: ignore[attr-defined]
    half.serve = lambda context, lib, function, arguments: (lib, function, arguments)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"half_{name}", half)
    return half


def test_the_executor_serves_its_allow_list_only(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    half = executor_half(monkeypatch, "good", "libgood")
    executor_half(monkeypatch, "other", "libother")
    installed(
        good=declared("good", executor="half_good", libraries=("libgood",)),
        other=declared("other", executor="half_other", libraries=("libother",)),
    )
    host = PluginHost(State(), ["good"])  # type: ignore[arg-type]
    assert host.serve("libgood", "f", [1], 0) == ("libgood", "f", [1])
    with pytest.raises(Refused, match="'libother' has no plugin on this broker's allow-list"):
        host.serve("libother", "f", [], 0)
    assert host.needs_lease("libgood", "f")
    assert host.prepare("libgood", "f", [], 0) is None
    half.counts = lambda: {"libgood plan": 3}  # type: ignore[attr-defined]
    assert host.counts() == {"libgood plan": 3}
    everything = PluginHost(State(), ["*"])  # type: ignore[arg-type]
    assert everything.serve("libother", "f", [], 0)[0] == "libother"


def test_a_broken_half_is_refused_by_name_and_the_others_serve(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executor_half(monkeypatch, "good", "libgood")
    executor_half(monkeypatch, "wrong", "something_else")
    installed(
        old=declared("old", interface=1, executor="half_old", libraries=("libold",)),
        broken=declared("broken", executor="no_such_half", libraries=("libbroken",)),
        wrong=declared("wrong", executor="half_wrong", libraries=("libwrong",)),
        good=declared("good", executor="half_good", libraries=("libgood",)),
    )
    host = PluginHost(State(), ["old", "broken", "missing", "wrong", "good"])  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(Refused, match="plugin 'broken' is broken: ModuleNotFoundError"):
            host.serve("libbroken", "f", [], 0)
    with pytest.raises(Refused, match="plugin 'wrong' is broken: its executor half does not serve 'libwrong'"):
        host.serve("libwrong", "f", [], 0)
    with pytest.raises(Refused, match=f"plugin 'old' is broken: .*interface 1; this migproxy has {INTERFACE_VERSION}"):
        host.serve("libold", "f", [], 0)
    assert host.serve("libgood", "f", [], 0)


def test_a_half_is_imported_when_its_library_is_first_called(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executor_half(monkeypatch, "good", "libgood")
    installed(
        good=declared("good", executor="half_good", libraries=("libgood",)),
        unused=declared("unused", executor="never_imported", libraries=("libunused",)),
    )
    host = PluginHost(State(), ["good", "unused"])  # type: ignore[arg-type]
    host.serve("libgood", "f", [], 0)
    assert host.counts() == {}
