"""What a report says it measured."""

from __future__ import annotations

import subprocess
import sys

import pytest

from migproxy.testing import both, machine


def test_a_software_gpu_is_marked() -> None:
    assert "say nothing about a real one" in machine.label(machine.SOFTWARE)
    assert machine.label("NVIDIA H100") == "NVIDIA H100"


def test_modes_on_different_devices_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both, "device_name", lambda: "NVIDIA H100")
    assert both.devices("auto") == "NVIDIA H100"
    assert both.devices("software") == "software GPU (proxied) beside NVIDIA H100 (native): not comparable"
    assert machine.is_software(both.devices("software"))


def test_the_plugin_imports_no_gpu_library() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # namespace packages that .pth files made
        "from migproxy.testing import both, machine, plugin, report\n"
        "found = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(found & {'cupy', 'cupy_backends', 'cupyx', 'numba', 'cuda', 'pynvml', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
