"""``migproxy run`` beside plain Python: the same in everything a script can tell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[3])


def environment(**more: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MIGPROXY")}
    return env | {"PYTHONPATH": ROOT} | more


def run(*arguments: str, cwd: Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "migproxy", *arguments],
        cwd=cwd, input=stdin, capture_output=True, text=True, timeout=60, env=environment(**more), check=False,
    )  # fmt: skip


def plain(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, input=stdin, capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip


SHOW = """
import os, sys
print(sys.argv, __name__, __file__, sys.path[0], sys.stdin.read(), os.getcwd())
print("to stderr", file=sys.stderr)
sys.exit(7)
"""


def test_a_script_sees_what_plain_python_shows_it(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    arguments = ("show.py", "--memory", "-m", "--", "--report", "ä b")
    proxied, native = run("run", *arguments, cwd=tmp_path, stdin="in\n"), plain(*arguments, cwd=tmp_path, stdin="in\n")
    assert (proxied.returncode, proxied.stdout, proxied.stderr) == (7, native.stdout, native.stderr)


def test_a_module_and_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOW)
    arguments = ("-m", "shown", "-x", "--report", "--", "y")
    proxied, native = run("run", *arguments, cwd=tmp_path), plain(*arguments, cwd=tmp_path)
    assert (proxied.returncode, proxied.stdout, proxied.stderr) == (7, native.stdout, native.stderr)


def test_a_traceback_is_pythons_own(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text("def inner():\n    return 1 / 0\n\n\ninner()\n")
    proxied, native = run("run", "fail.py", cwd=tmp_path), plain("fail.py", cwd=tmp_path)
    assert (proxied.returncode, proxied.stderr) == (1, native.stderr)


@pytest.mark.parametrize("report", [False, True])
def test_a_signal_ends_it_as_it_ended_the_function(tmp_path: Path, report: bool) -> None:
    (tmp_path / "die.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    options = ("--report",) if report else ()
    assert run("run", *options, "die.py", cwd=tmp_path).returncode == -signal.SIGTERM


def test_a_signal_is_passed_on_while_a_report_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('waiting', flush=True)\nsignal.pause()\n"
    )
    command = [sys.executable, "-m", "migproxy", "run", "--report", "wait.py"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "kernel launches" in errors


def test_the_report_counts_and_keeps_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "exit.py").write_text("import sys; print('done'); sys.exit(3)")
    done = run("run", "--report", "exit.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "done\n")
    assert "peak device memory" in done.stderr


def test_children_are_woken_and_join_the_function(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        "import multiprocessing, os, subprocess, sys\n"
        "def woken():\n"
        "    from migproxy.interpose import wake\n"
        "    return wake.active(), os.environ['MIGPROXY_FUNCTION'], os.environ['CUDA_VISIBLE_DEVICES']\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        spawned = pool.apply(woken)\n"
        "    code = 'from migproxy.interpose import wake; print(wake.active())'\n"
        "    other = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout\n"
        "    print(woken() == spawned, spawned[0], other.strip(), len(spawned[1]), repr(spawned[2]))\n"
    )
    done = run("run", "child.py", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("True True True 16 ''\n", "")


def test_a_private_broker_is_no_child_and_ends_with_the_run(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(
        "import os\nprint(os.environ['MIGPROXY_BROKER'])\n"
        "try:\n    os.wait()\nexcept ChildProcessError:\n    print('no child')\n"
    )
    done = run("run", "wait.py", cwd=tmp_path)
    socket, said = done.stdout.splitlines()
    assert said == "no child"
    deadline = time.monotonic() + 10.0
    while os.path.exists(os.path.dirname(socket)):
        assert time.monotonic() < deadline, "the private broker did not end"
        time.sleep(0.01)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "broker.sock")
    command = [sys.executable, "-m", "migproxy", "broker", "--socket", path, "--device", "software",
               "--software-memory", "1GiB", "--max-memory", "512MiB"]  # fmt: skip
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "serves on" in process.stderr.readline()
        yield path
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert not os.path.exists(path)


def test_a_broker_is_found_by_option_variable_and_users_socket(tmp_path: Path, broker: str) -> None:
    (tmp_path / "which.py").write_text("import os; print(os.environ['MIGPROXY_BROKER'])")
    assert run("run", "--broker", broker, "which.py", cwd=tmp_path).stdout == broker + "\n"
    assert run("run", "which.py", cwd=tmp_path, MIGPROXY_BROKER=broker).stdout == broker + "\n"
    runtime = tmp_path / "runtime"
    (runtime / "migproxy").mkdir(parents=True)
    (runtime / "migproxy" / "broker.sock").symlink_to(broker)
    found = run("run", "which.py", cwd=tmp_path, XDG_RUNTIME_DIR=str(runtime)).stdout
    assert found == f"{runtime}/migproxy/broker.sock\n"
    private = run("run", "--private", "which.py", cwd=tmp_path, MIGPROXY_BROKER=broker).stdout
    assert private.strip() != broker


def test_questions_to_a_broker(tmp_path: Path, broker: str) -> None:
    assert "software" in run("smi", "--broker", broker, cwd=tmp_path).stdout
    assert run("ps", "--broker", broker, cwd=tmp_path).stdout.startswith("SESSION")
    assert (
        "overlap_cpu_memcpy" in run("top", "--count", "2", "--interval", "0.1", "--broker", broker, cwd=tmp_path).stdout
    )
    assert "broker serves software" in run("logs", "--broker", broker, cwd=tmp_path).stdout
    wrong = run("kill", "--broker", broker, "nonsense", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "migproxy: no session 'nonsense' of yours\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run", "none.py"), "cannot run none.py: No such file or directory"),
        (("run",), "nothing to run: name a SCRIPT or -m MODULE"),
        (("run", "--device", "toaster", "ok.py"), "unknown device 'toaster': it is auto, software, a GPU's index,"),
        (
            ("run", "--memory", "lots", "ok.py"),
            "bad size 'lots': write a number with a unit, for example 2GiB or 512MiB",
        ),
        (("run", "--broker", "/none.sock", "ok.py"), "no broker answers at /none.sock (from --broker)"),
        (("run", "--broker", "x", "--private", "ok.py"), "--private and --broker exclude each other"),
        (("run", "--memory", "900TiB", "ok.py"), "--memory 900TiB is more than a function may have here:"),
        (("run", "--colour", "ok.py"), "unrecognized arguments: --colour; see migproxy run --help"),
        (("run", "--memory"), "argument --memory: expected one argument; see migproxy run --help"),
        (("walk",), "No such command 'walk'"),
        (("mig",), "Missing command."),
        (("ps", "--broker", "/none.sock"), "no broker answers at /none.sock (from --broker)"),
        (("broker", "--socket", "/none/b.sock", "--device", "software"), "no socket can be made at /none/b.sock"),
    ],
)
def test_wrong_use_gets_one_line_and_code_2(tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    (tmp_path / "ok.py").write_text("print('ran')")
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("migproxy: " + line)
    assert done.stderr.count("\n") == 1


def test_a_library_outside_the_supported_range_is_named_with_the_range(tmp_path: Path) -> None:
    (tmp_path / "ok.py").write_text("print('ran')")
    old = tmp_path / "site" / "numba_cuda-0.19.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: numba-cuda\nVersion: 0.19.0\n")
    done = run("run", "ok.py", cwd=tmp_path, PYTHONPATH=f"{old.parent}:{ROOT}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "migproxy: numba-cuda 0.19.0 is not supported; migproxy works with numba-cuda 0.20 or newer, below 0.31\n"
    )


def test_a_quota_above_the_brokers_cap_is_refused_before_the_script_starts(tmp_path: Path, broker: str) -> None:
    (tmp_path / "ok.py").write_text("print('ran')")
    done = run("run", "--broker", broker, "--memory", "600MiB", "ok.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "migproxy: --memory 600MiB is more than a function may have here: 512MiB\n"


def test_doctor_tells_where_functions_run(tmp_path: Path) -> None:
    done = run("doctor", cwd=tmp_path)
    for topic in ("Python", "cupy-cuda12x", "NVIDIA driver", "broker", "migproxy run"):
        assert topic in done.stdout


def test_the_report_tells_how_long_the_function_waited_for_replies(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(
        "import time\nfrom migproxy.session import api\n"
        "api.init()\napi.ensure_context()\nstart = time.perf_counter()\n"
        "for _ in range(50):\n    api.context_synchronize()\n"
        "print(time.perf_counter() - start)\n"
    )
    done = run("run", "--report", "wait.py", cwd=tmp_path)
    waited = next(line for line in done.stderr.splitlines() if "time waited for replies" in line)
    number, unit = waited.strip(" │").split()[-2:]
    seconds = float(number) * {"µs": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    assert 0 < seconds <= float(done.stdout) + 0.5, (done.stdout, done.stderr)


def test_a_run_imports_neither_typer_nor_a_gpu_library(tmp_path: Path) -> None:
    """What the command imports is part of every function's start."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "migproxy", "run", "none.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "msgspec" in imported
    assert not imported & {"typer", "click", "rich", "pydantic", "numpy", "cupy", "numba", "llvmlite"}
