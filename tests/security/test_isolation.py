"""A function cannot open the GPU's device nodes, whatever it tries; nothing else changes for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from broker.broker_tools import ROOT

from migproxy.cli import isolation

needs_landlock = pytest.mark.skipif(not isolation.landlock_version(), reason="this kernel has no Landlock")


def isolated(code: str, cwd: Path) -> str:
    """Run `code` in a process from which /dev/zero is hidden, in place of a GPU."""
    prologue = (
        "import os, subprocess, sys\nfrom migproxy.cli.isolation import isolate\nisolate(lambda name: name == 'zero')\n"
        "def opens(path):\n"
        "    try:\n        os.close(os.open(path, os.O_RDONLY)); return 'open'\n"
        "    except OSError as error:\n        return os.strerror(error.errno).split()[0]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prologue + code],
        cwd=cwd, env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_landlock
def test_the_node_cannot_be_opened_by_any_way(tmp_path: Path) -> None:
    code = """
print(opens("/dev/zero"), opens("/dev/../dev/zero"), opens("/proc/self/" + "root/dev/zero"))
os.symlink("/dev/zero", "link"); print(opens("link"))
child = "import os; os.open('/dev/zero', os.O_RDONLY)"
print(subprocess.run([sys.executable, "-c", child], stderr=subprocess.DEVNULL).returncode)
"""
    assert isolated(code, tmp_path).split() == ["Permission"] * 4 + ["1"]


@needs_landlock
@pytest.mark.skipif(os.getuid() != 0, reason="making device nodes needs root")
def test_no_new_node_for_it_can_be_made(tmp_path: Path) -> None:
    code = """
import stat
for kind in (stat.S_IFCHR,):
    try:
        os.mknod("node", 0o666 | kind, os.makedev(1, 5)); print("made", opens("node"))
    except OSError as error:
        print(os.strerror(error.errno))
try:
    os.link("/dev/zero", "hard")
    print(opens("hard"))
except OSError as error:
    print("no link")
"""
    said = isolated(code, tmp_path).splitlines()
    assert said[0] in ("Permission denied", "Operation not permitted")
    assert said[1] in ("Permission", "no link")


@needs_landlock
def test_everything_else_is_as_before(tmp_path: Path) -> None:
    code = """
import multiprocessing, socket, tempfile, threading
print(opens("/dev/null"), opens("/dev/urandom"), opens("/proc/self/maps"), opens(sys.executable))
os.mkdir("a"); os.mkdir("b"); open("a/x", "w").write("1"); os.rename("a/x", "b/y"); os.link("b/y", "a/z")
with tempfile.TemporaryFile() as file:
    file.write(b"x")
print(multiprocessing.get_context("fork").Pool(1).apply(len, ("abc",)))
left, right = socket.socketpair(); os.memfd_create("m")
print(subprocess.run(["sh", "-c", "echo shell"], capture_output=True, text=True).stdout.strip())
"""
    assert isolated(code, tmp_path).split() == ["open"] * 4 + ["3", "shell"]


def test_a_kernel_without_it_is_refused_where_isolation_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from migproxy.errors import UsageError

    monkeypatch.setattr(isolation, "landlock_version", lambda: 0)
    monkeypatch.setattr(isolation, "gpu_nodes", lambda: ["nvidia0"])
    assert not isolation.is_possible()
    with pytest.raises(UsageError, match="this kernel has no Landlock"):
        isolation.isolate()


@needs_landlock
def test_a_function_computes_under_required_isolation(tmp_path: Path) -> None:
    (tmp_path / "sum.py").write_text("import cupy; print(float(cupy.arange(10).sum()))")
    env = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY")} | {"PYTHONPATH": ROOT}
    command = [sys.executable, "-m", "migproxy", "run", "--private", "--require-isolation", "--device", "software"]
    done = subprocess.run(
        [*command, "sum.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("45.0\n", "")
