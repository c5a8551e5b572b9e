"""Plugins as their authors meet them: the conformance kit, a new package, the tutorial, and what goes wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from processes import Finished, run_command

from migproxy.abi.tables import INTERFACE_VERSION
from migproxy.plugin_kit import new

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text()
DEVICES = (
    pytest.param("software", id="software"),
    pytest.param("0", id="gpu", marks=pytest.mark.gpu),
)


class Environment:
    """A virtual environment of the test's own that sees this one's packages, so that installing touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.python = str(folder / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
        (site,) = folder.glob("lib/python*/site-packages")
        self.site = site
        outer = sysconfig.get_path("purelib")
        (site / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")

    def run(self, *command: str, timeout: float = 120, cwd: Path | None = None) -> Finished:
        return run_command([self.python, *command], timeout=timeout, cwd=cwd, env={"PYTHONPATH": ""})

    def pip(self, *command: str) -> Finished:
        done = self.run("-m", "pip", "--disable-pip-version-check", *command)
        assert done.returncode == 0, done.said
        return done

    def install(self, package: Path) -> None:
        self.pip("install", "-q", "--no-index", "--no-deps", "--no-build-isolation", str(package))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("venv"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["cuda", "cupy", "numba"])
def test_the_built_in_plugins_pass_their_check(name: str, device: str) -> None:
    command = [sys.executable, "-m", "migproxy", "plugin", "check", name, "--device", device]
    done = run_command(command, timeout=380, cwd=ROOT)
    assert done.returncode == 0, done.said
    assert f"{name}: threads: ok" in done.stdout
    assert "FAILED" not in done.stdout
    if name != "numba":
        assert f"{name}: hostile arguments: ok" in done.stdout


@pytest.mark.timeout(300)
def test_a_new_package_installs_passes_and_goes_again(environment: Environment, tmp_path: Path) -> None:
    made = environment.run("-m", "migproxy", "plugin", "new", "fast_sums", "--to", str(tmp_path))
    assert made.returncode == 0, made.said
    package = tmp_path / "migproxy-fast-sums"
    again = environment.run("-m", "migproxy", "plugin", "new", "fast_sums", "--to", str(tmp_path))
    assert again.returncode == 2, again.said
    environment.install(package)
    try:
        listed = environment.run("-m", "migproxy", "plugin", "list")
        assert "fast_sums: interface" in listed.stdout, listed.said
        checked = environment.run("-m", "migproxy", "plugin", "check", "fast_sums", "--device", "software")
        assert checked.returncode == 0, checked.said
        for check in ("hostile arguments", "threads", "fork", "handle leaks", "lifetimes", "errors", "round trips"):
            assert f"fast_sums: {check}: ok" in checked.stdout, checked.said
        tests = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=package)
        assert tests.returncode == 0, tests.said
    finally:
        environment.pip("uninstall", "-q", "-y", "migproxy-fast-sums")
    assert "fast_sums" not in environment.run("-m", "migproxy", "plugin", "list").stdout
    assert not list(environment.site.glob("migproxy_fast_sums*"))


def blocks(language: str) -> dict[str, str]:
    """Return the guide's code blocks that a file's name stands above."""
    return dict(re.findall(rf"^`([\w./]+)`:\n\n```{language}\n(.*?)^```$", GUIDE, re.M | re.S))


def test_the_tutorial_is_what_plugin_new_makes() -> None:
    made = new.package_files("vecmath")
    shown = {path: text for path, text in blocks("python").items() if path.startswith("migproxy_vecmath/")}
    assert len(shown) == 6
    assert shown == {path: made[path] for path in shown}
    assert sum(len(text.splitlines()) for text in made.values()) < 150


@pytest.mark.timeout(300)
def test_the_tutorials_code_runs(environment: Environment, tmp_path: Path) -> None:
    package = new.make_package("vecmath", tmp_path)
    environment.install(package)
    try:
        library = environment.site / "vecmath.py"
        library.write_text(blocks("python")["vecmath.py"])
        program = tmp_path / "program.py"
        program.write_text(blocks("python")["program.py"])
        ran = environment.run("-m", "migproxy", "run", "--device", "software", "--report", str(program))
        assert ran.returncode == 0, ran.said
        assert ran.stdout == "500.0\nVecmathError 1\n"
        assert re.search(r"calls of vecmath\.dot +│ +1", ran.stderr), ran.said
        assert re.search(r"handles left, vecmath context +│ +1", ran.stderr), ran.said
        checked = environment.run("-m", "migproxy", "plugin", "check", "vecmath", "--device", "software")
        assert "vecmath: vecmath against the library: ok: 5 of 5" in checked.stdout, checked.said
        one_more_function(environment, tmp_path)
    finally:
        environment.pip("uninstall", "-q", "-y", "migproxy-vecmath")
        library.unlink()


def unpack_vecmath(folder: Path) -> None:
    """Put the tutorial's library and its plugin into a folder, as ``pip install --target`` does."""
    for path, text in new.package_files("vecmath").items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    info = folder / "migproxy_vecmath-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: migproxy-vecmath\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[migproxy.plugins]\nvecmath = migproxy_vecmath\n")
    (folder / "vecmath.py").write_text(blocks("python")["vecmath.py"])


LATE = """
import vecmath
from cuda.bindings import driver, runtime
from migproxy.session import api
from numba import cuda

x, context = api.mem_alloc(64), vecmath.create()
vecmath.scale(0x1234, 3, 10.0, x)
print(*(status.name for (status,) in (runtime.cudaDeviceSynchronize(), driver.cuCtxSynchronize())))
cuda.synchronize()
try:
    vecmath.scale(context, 3, 10.0, x)
except vecmath.VecmathError as error:
    print(error.status, error)
vecmath.scale(0x4321, 3, 10.0, x)
print(runtime.cudaDeviceSynchronize()[0].name)
"""


@pytest.mark.timeout(120)
def test_a_librarys_late_error_is_its_own_next_calls_not_cudas(tmp_path: Path) -> None:
    """CUDA reports no library's status; what no later call told is said in the end."""
    unpack_vecmath(tmp_path / "installed")
    (tmp_path / "late.py").write_text(LATE)
    command = [sys.executable, "-m", "migproxy", "run", "--private", "--device", "software", "late.py"]
    ran = run_command(command, timeout=100, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:installed"})
    assert ran.returncode == 0, ran.said
    told = "vecmath.scale, called before: 0x1234 is no handle of context"
    assert ran.stdout == f"cudaSuccess CUDA_SUCCESS\n1 {told}\ncudaSuccess\n", ran.said
    assert ran.stderr == "migproxy: vecmath.scale failed after it had returned: 0x4321 is no handle of context\n"


@pytest.mark.timeout(120)
def test_executors_find_what_the_function_finds_by_its_pythonpath(tmp_path: Path) -> None:
    """As in a container with ``pip install --target``: the library and its plugin are nowhere else."""
    unpack_vecmath(tmp_path / "installed")
    (tmp_path / "program.py").write_text(blocks("python")["program.py"])
    command = [sys.executable, "-m", "migproxy", "run", "--private", "--device", "software", "program.py"]
    # A relative entry is the starter's: an executor has another working directory.
    ran = run_command(command, timeout=100, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:installed"})
    assert (ran.returncode, ran.stdout) == (0, "500.0\nVecmathError 1\n"), ran.said


def one_more_function(environment: Environment, folder: Path) -> None:
    """Apply the guide's diff: the function exists, and is refused by name where the device has none."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", GUIDE, re.M | re.S)
    before, added = (line[1:] + "\n" for line in diff.splitlines())
    table = environment.site / "migproxy_vecmath" / "table.py"
    text = table.read_text()
    assert before in text
    table.write_text(text.replace(before, before + added))
    script = folder / "more.py"
    script.write_text(
        "import numpy as np, vecmath\nfrom migproxy.session import api\n"
        "context, x = vecmath.create(), api.mem_alloc(64)\n"
        "try:\n    vecmath.asum(context, 1, x, np.zeros(1))\n"
        "except vecmath.VecmathError as error:\n    print(error.status, error)\n"
    )
    ran = environment.run("-m", "migproxy", "run", "--device", "software", str(script))
    assert ran.stdout.startswith("801 "), ran.said
    assert "vecmath.asum is not in the software library" in ran.stdout, ran.said
    checked = environment.run("-m", "migproxy", "plugin", "check", "vecmath", "--device", "software")
    assert checked.returncode == 1
    assert "it lacks asum" in checked.stdout, checked.said


def test_broken_plugins_take_no_function_down(environment: Environment, tmp_path: Path) -> None:
    """One cannot be imported, one was made for another interface, one fails when its library is imported."""
    entries = {"broken": "no_such_package", "old": "old_plugin", "failing": "failing_plugin"}
    info = environment.site / "bad_plugins-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugins\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[migproxy.plugins]\n" + "".join(f"{name} = {module}\n" for name, module in entries.items())
    )
    declaration = "from migproxy.interpose.plugin import Plugin, later\nPLUGIN = Plugin({}, {}, {})\n"
    (environment.site / "old_plugin.py").write_text(declaration.format("'old'", 1, "{}"))
    patches = "{'colorsys': later('no_such_half:install')}"
    (environment.site / "failing_plugin.py").write_text(declaration.format("'failing'", INTERFACE_VERSION, patches))
    script = tmp_path / "script.py"
    script.write_text(
        "from migproxy.session import api\nimport sys\n"
        "print(api.device_count(), 'no_such_half' in sys.modules)\n"
        "try:\n    import colorsys\nexcept ImportError as error:\n    print(error)\n"
    )
    try:
        ran = environment.run("-m", "migproxy", "run", "--device", "software", str(script))
        listed = environment.run("-m", "migproxy", "plugin", "list")
        checked = environment.run("-m", "migproxy", "plugin", "check", "old")
    finally:
        for path in (*info.iterdir(), environment.site / "old_plugin.py", environment.site / "failing_plugin.py"):
            path.unlink()
        info.rmdir()
    assert ran.returncode == 0, ran.said
    assert ran.stdout == "1 False\nNo module named 'no_such_half'\n"
    assert not ran.stderr, ran.said
    assert listed.returncode == 1
    assert "broken: BAD: plugin 'broken' (no_such_package) cannot be imported" in listed.stdout
    both = f"made for plugin interface 1; this migproxy has {INTERFACE_VERSION}"
    assert both in listed.stdout
    assert checked.returncode == 1
    assert both in checked.stdout
