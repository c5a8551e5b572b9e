"""``migproxy run`` in the interpreter that was started for it: what a script sees there, and when it is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from migproxy.cli import becoming_unsafe, early
from migproxy.cli.function_environment import pth_installed
from migproxy.cli.run_options import Options, parse, parse_fully, split
from migproxy.errors import UsageError

from .test_run import environment, plain, run

needs_pth = pytest.mark.skipif(not pth_installed(), reason="migproxy.pth is not installed")

#: All that is known of how a script was started.
SHOW = """
import inspect, os, sys, threading
spec = __spec__ and (__spec__.name, __spec__.origin)
print(sys.argv, sys.orig_argv[1:], sys.path[:2], sys.flags, sys._xoptions, sys.warnoptions)
print(__name__, __file__, spec, type(__loader__), __package__, sorted(globals()), len(inspect.stack()))
print(os.getppid(), threading.current_thread() is threading.main_thread(), sys.stdin.read())
"""
COMMAND_LINE = "import sys\nprint(open('/proc/self/cmdline').read().split(chr(0))[1:4])\n"


@needs_pth
@pytest.mark.parametrize(
    ("interpreter", "arguments"),
    [
        (("-X", "dev", "-W", "error", "-O"), ("./show.py", "run", "--report", "-m", "ä\udcff b")),
        (("-s", "-P"), ("-m", "package", "run", "x")),
        ((), ("package", "-x")),
        ((), ("-m", "shown.module")),
    ],
)
def test_a_script_is_started_as_plain_python_starts_it(
    tmp_path: Path, interpreter: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    """The last case ends with an error, the same in both."""
    (tmp_path / "package").mkdir()
    for name in ("show.py", "package/__main__.py"):
        (tmp_path / name).write_text(SHOW)
    native = plain(*interpreter, *arguments, cwd=tmp_path, stdin="in")
    proxied = subprocess.run(
        [sys.executable, *interpreter, "-m", "migproxy", "run", *arguments],
        cwd=tmp_path, input="in", capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert (proxied.returncode, proxied.stdout, proxied.stderr) == (native.returncode, native.stdout, native.stderr)


@needs_pth
@pytest.mark.parametrize("before", [("-m", "migproxy"), (str(Path(sys.executable).with_name("migproxy")),)])
def test_no_second_interpreter_is_started(tmp_path: Path, before: tuple[str, ...]) -> None:
    """The process's command line is still the one it was started with: `os.execve` would have changed it."""
    (tmp_path / "show.py").write_text(COMMAND_LINE)
    done = subprocess.run(
        [sys.executable, *before, "run", "show.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment(PYTHONMALLOC="debug"), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{[*before, 'run', 'show.py'][:3]}\n", "")


def test_an_interpreter_that_stays_as_it_is_starts_another(tmp_path: Path) -> None:
    """As with anything that `find` is not certain of."""
    (tmp_path / "show.py").write_text(COMMAND_LINE)
    assert "migproxy" not in run("run", "--report", "show.py", cwd=tmp_path).stdout
    code = "import sys; from migproxy.cli.main import main; sys.exit(main(['run', 'show.py']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert "show.py" in done.stdout
    assert "migproxy" not in done.stdout + done.stderr


def test_only_what_the_configuration_certainly_says_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """This interpreter runs something else."""
    assert becoming_unsafe.find(module="migproxy.no.such") is None
    assert becoming_unsafe.find(script="/no/such/migproxy") is None
    for argv, orig_argv in (
        (["flask", "run"], ["python", "flask", "run"]),
        (["-m", "run"], ["python", "-m", "flask", "run"]),
        (["-m", "run"], ["python", "-Im", "migproxy", "run"]),
        (["", "run"], []),
    ):
        monkeypatch.setattr(sys, "argv", list(argv))
        monkeypatch.setattr(sys, "orig_argv", list(orig_argv))
        early.become()
        assert sys.argv == argv


OWN = [
    [],
    ["-m", "package"],
    ["-mpackage"],
    ["--broker", "a", "--memory=2GiB", "--report"],
    ["--broker=a=b", "--private", "--require-isolation", "--device", "software"],
]


@pytest.mark.parametrize("own", OWN)
def test_both_parsers_read_the_same(own: list[str]) -> None:
    quick = parse(own)
    assert quick is not None
    full = parse_fully(own)
    assert {name: getattr(quick, name) for name in NAMES} == {name: getattr(full, name) for name in NAMES}


NAMES = [name for name in vars(Options) if not name.startswith("_")]


WRONG = [["--memory"], ["--device="], ["--report=1"], ["-m=x"], ["--colour"], ["--broker", "-x"]]


@pytest.mark.parametrize("own", WRONG)
def test_what_is_wrong_is_left_to_argparse(own: list[str]) -> None:
    assert parse(own) is None
    if own not in (["--device="], ["-m=x"]):  # argparse takes these
        with pytest.raises(UsageError):
            parse_fully(own)


def test_options_end_where_the_script_begins() -> None:
    assert split(["--memory", "1", "--report", "a.py", "--private"]) == (
        ["--memory", "1", "--report"], ["a.py", "--private"]
    )  # fmt: skip
    assert split(["-m", "a", "--private"]) == (["-m", "a"], ["--private"])
    assert split(["--private", "--", "-a.py"]) == (["--private"], ["-a.py"])
