"""A function behaves as the script does under plain Python, with its GPU work going on meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import RunScript

CHECK = "\nassert int(cupy.arange(10).sum()) == 45\nprint('fine')\n"


def plain_and_proxied(run_script: RunScript, script: str, *arguments: str, stdin: str = "") -> None:
    """Assert that a script without GPU work does the same with and without migproxy."""
    expected = run_script(script, *arguments, proxied=False, stdin=stdin)
    actual = run_script(script, *arguments, stdin=stdin)
    assert (actual.returncode, actual.stdout, actual.stderr) == (expected.returncode, expected.stdout, expected.stderr)


@pytest.mark.parametrize(
    "script",
    [
        "import sys; print(sys.argv[1:], __name__, __file__ == sys.argv[0], sys.flags.interactive)",
        "import sys; sys.exit(7)",
        "import sys; sys.exit('a message')",
        "def f():\n    return 1 / 0\n\n\nf()",
        "import sys; print(sys.stdin.read().upper()); print('to stderr', file=sys.stderr)",
        "this is no Python",
        "import os; os._exit(9)",
    ],
)
def test_same_as_plain_python(run_script: RunScript, script: str) -> None:
    plain_and_proxied(run_script, script, "--flag", "a b", stdin="some input")


def test_a_traceback_through_cuda(run_script: RunScript) -> None:
    done = run_script("import cupy\n\n\ndef work():\n    return cupy.zeros(3) + cupy.zeros(4)\n\n\nwork()\n")
    assert done.returncode == 1
    assert "line 5, in work" in done.stderr, done.said
    assert done.stderr.rstrip().splitlines()[-1].startswith("ValueError: operands could not be broadcast"), done.said
    assert "migproxy" not in done.stderr, done.said


def test_exit_handlers_still_have_the_gpu(run_script: RunScript) -> None:
    done = run_script(
        "import atexit\n"
        "atexit.register(lambda: print('at exit', int(kept.sum())))\n"
        "import cupy\n"
        "kept = cupy.arange(5)\n"
        "class Late:\n    def __del__(self): self.stream.synchronize()\n"
        "late = Late(); late.stream = cupy.cuda.Stream()\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "at exit 10\n", ""), done.said


def test_threads_submit_at_once(run_script: RunScript) -> None:
    done = run_script(
        "import cupy, threading\n"
        "results = {}\n"
        "def work(n):\n"
        "    with cupy.cuda.Stream(non_blocking=True) as stream:\n"
        "        x = cupy.zeros(1000, 'i8')\n"
        "        for i in range(200): x += n\n"
        "        results[n] = int(x.sum())\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert results == {n: n * 200_000 for n in range(6)}, results\n" + CHECK
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


def test_a_forked_child_has_its_own_session(run_script: RunScript) -> None:
    done = run_script(
        "import os, sys, warnings, cupy, numpy\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # Python 3.12 and later warn of threads, natively too\n"
        "host = numpy.arange(1000)\n"
        "before = cupy.asarray(host)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    host[:] = 7\n"
        "    x = cupy.asarray(host)\n"
        "    ok = int(x.sum()) == 7000\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0 if ok else 1)\n"
        "_, status = os.waitpid(pid, 0)\n"
        "assert status == 0, status\n"
        "assert int(host.sum()) == 499500\n"
        "assert int(before.sum()) == 499500\n" + CHECK
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


CHILD = "import cupy; print(int(cupy.arange(100).sum()))"


def test_subprocesses(run_script: RunScript) -> None:
    done = run_script(
        "import cupy, subprocess, sys\n"
        f"out = subprocess.run([sys.executable, '-c', {CHILD!r}], capture_output=True, text=True, timeout=60)\n"
        "assert (out.returncode, out.stdout, out.stderr) == (0, '4950\\n', ''), out\n" + CHECK
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


@pytest.mark.parametrize("library", ["multiprocessing", "multiprocess"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes(run_script: RunScript, library: str, method: str) -> None:
    done = run_script(
        f"import {library} as processes, cupy\n"
        "def work(n):\n"
        "    import cupy\n"
        "    return int(cupy.arange(n).sum())\n"
        "if __name__ == '__main__':\n"
        f"    with processes.get_context('{method}').Pool(2) as pool:\n"
        "        assert pool.map(work, [10, 20, 30]) == [45, 190, 435]\n"
        "        pool.close(); pool.join()\n" + CHECK.replace("\n", "\n    ")
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_end_a_function_at_work(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import cupy\n"
        "x = cupy.ones(1000)\n"
        "print('working', flush=True)\n"
        "while True:\n    x = x * 1.0\n    x.sum().get()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "migproxy", "run", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "working\n"
            process.send_signal(number)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == -number
    if number == signal.SIGINT:
        assert err.rstrip().endswith("KeyboardInterrupt"), err
    else:
        assert err == ""


def test_a_signal_handler_runs_while_the_gpu_works(run_script: RunScript) -> None:
    done = run_script(
        "import cupy, os, signal\n"
        "seen = []\n"
        "signal.signal(signal.SIGALRM, lambda *_: seen.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)\n"
        "x = cupy.zeros(10_000)\n"
        "while len(seen) < 5:\n    x += 1\n    cupy.cuda.Device().synchronize()\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n" + CHECK
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


def test_no_gpu_is_visible_in_the_function(run_script: RunScript) -> None:
    done = run_script(
        "import cupy, os\n"
        "assert os.environ['CUDA_VISIBLE_DEVICES'] == ''\n"
        "assert int(cupy.arange(4).sum()) == 6\n"
        "assert not [line for line in open('/proc/self/maps') if 'libcuda.so' in line or '/dev/nvidia' in line]\n"
        "paths = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]\n"
        "targets = [os.readlink(path) for path in paths if os.path.islink(path)]\n"
        "assert not [target for target in targets if 'nvidia' in target], targets\n" + CHECK
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", ""), done.said


def test_printf_of_kernels_comes_before_the_synchronize_returns(run_script: RunScript) -> None:
    done = run_script(
        "import cupy, sys\n"
        "body = 'printf(\"from %d\\\\n\", threadIdx.x);'\n"
        "kernel = cupy.RawKernel('extern \"C\" __global__ void hello() { %s }' % body, 'hello')\n"
        "print('before', flush=True)\n"
        "kernel((1,), (3,), ())\n"
        "cupy.cuda.Device().synchronize()\n"
        "print('after', flush=True)\n"
    )
    assert (done.returncode, done.stdout) == (0, "before\nfrom 0\nfrom 1\nfrom 2\nafter\n"), done.said


def test_standard_streams_may_be_closed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import cupy, sys\nsys.exit(0 if int(cupy.arange(10).sum()) == 45 else 1)\n")
    command = f'exec "{sys.executable}" -m migproxy run "{script}" >&- 2>&- <&-'
    assert subprocess.run(["bash", "-c", command], timeout=60, env={**os.environ}).returncode == 0


@pytest.mark.parametrize(
    "device", [pytest.param("software", id="software"), pytest.param("0", id="gpu", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("wait", ["cupy.cuda.Device().synchronize()", "stream.synchronize()", "x.get()"])
def test_what_kernels_print_comes_before_what_follows_the_wait(run_script: RunScript, device: str, wait: str) -> None:
    done = run_script(
        "import cupy\n"
        'code = r\'extern "C" __global__ void hello(int* x) { printf("hello %d\\n", x[threadIdx.x]); }\'\n'
        "hello = cupy.RawKernel(code, 'hello')\n"
        "x = cupy.arange(3, dtype='i4')\n"
        "stream = cupy.cuda.Stream.null\n"
        f"hello((1,), (3,), (x,)); {wait}\n"
        "print('then', flush=True)\n"
        f"hello((1,), (3,), (x,)); {wait}\n",
        options=("--device", device),
    )
    lines = ["hello 0\n", "hello 1\n", "hello 2\n"]
    assert (done.returncode, done.stderr) == (0, ""), done.said
    assert done.stdout == "".join([*lines, "then\n", *lines]), done.said
