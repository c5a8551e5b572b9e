"""``migproxy run``: a script as plain Python runs it, its CUDA calls through a broker.

The function is a fresh interpreter that *replaces* this process (`os.execve`), so its process id, arguments, standard
streams, signals, job control, exit code and tracebacks are Python's own; there is nothing in between that could
imitate them badly. Only ``--report`` needs somebody who stays: then this process waits, passes signals on and ends as
the function ended.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from migproxy.abi.control import AskReport, FunctionReport, Status
from migproxy.cli.control import BrokerClient
from migproxy.cli.function_environment import function_environment
from migproxy.cli.isolation import gpu_nodes, is_possible, isolate, landlock_version
from migproxy.cli.report import print_report
from migproxy.device.choose import check_name
from migproxy.errors import UsageError
from migproxy.session import connect
from migproxy.sizes import format_size, parse_size
from migproxy.versions import check_installed

#: Passed on to the function by a ``run`` that waits for it. SIGINT and SIGQUIT of a terminal reach the function by
#: themselves.
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_REPORT_PATIENCE = 5.0


HELP = "Run SCRIPT, or -m MODULE, through the broker. Options after the script are the script's own."
#: Options that a value follows.
_TAKES_VALUE = ("-m", "--broker", "--memory", "--device")


class _Parser(argparse.ArgumentParser):
    """Wrong use is one line, as everywhere in this command line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see migproxy run --help")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before the script.

    This command starts functions, so what it imports is part of every function's start: `argparse`, where all other
    commands use typer; see docs/decisions/run-without-typer.md.
    """
    parser = _Parser(
        prog="migproxy run", description=HELP, allow_abbrev=False, usage="%(prog)s [OPTIONS] SCRIPT|-m MODULE [ARGS]..."
    )
    parser.add_argument("-m", dest="module", metavar="MODULE", default="", help="run a module, like python -m")
    parser.add_argument("--broker", metavar="PATH", default="", help="socket of the broker to use")
    parser.add_argument("--private", action="store_true", help="start a broker for this run only")
    parser.add_argument("--memory", metavar="SIZE", default="", help="device memory quota, like 2GiB (the broker's)")
    parser.add_argument(
        "--device", metavar="NAME", default="auto", help="auto, software, a GPU's index, a GPU-… or MIG-… UUID (auto)"
    )
    parser.add_argument(
        "--require-isolation", action="store_true", help="refuse to run where the script could open the GPU itself"
    )
    parser.add_argument("--report", action="store_true", help="at the end, print what was executed")
    return parser


def main(arguments: list[str]) -> int:
    """Run ``migproxy run`` with `arguments`; returns only if the function did not replace this process."""
    own, rest = split(arguments)
    return run(make_parser().parse_args(own), rest)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split into this command's own arguments, and the script (unless ``-m`` names a module) with its arguments."""
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--":
            return arguments[:position], arguments[position + 1 :]
        if argument == "-" or not argument.startswith("-"):
            break
        position += 2 if argument in _TAKES_VALUE else 1
        if argument.startswith("-m"):
            break
    return arguments[:position], arguments[position:]


def run(options: argparse.Namespace, arguments: list[str]) -> int:
    """Run a script, or ``options.module``, through the broker."""
    command = function_command(arguments, options.module)
    if options.private and options.broker:
        raise UsageError("--private and --broker exclude each other")
    check_installed()
    quota = parse_size(options.memory) if options.memory else 0
    canonical = check_name(options.device)
    path = "" if options.private else connect.find_broker(explicit=options.broker)
    started = not path
    if started:
        path = connect.start_private_broker(device=options.device)
    client = BrokerClient(path)
    try:
        check_against(client.status(), canonical, quota)
        foreign = client.uid != os.getuid()
    finally:
        client.close()
    # Under one's own broker this would protect nobody: the function could as well end the broker.
    if options.require_isolation or (foreign and gpu_nodes() and is_possible()):
        keep_off_the_gpu()
    function_id = secrets.token_hex(8)
    env = function_environment(path, function_id=function_id, quota=quota, device=options.device)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None where the caller closed the descriptor
            stream.flush()
    if not options.report:
        os.execve(command[0], command, env)
    code = wait_for(command, env)
    print_report(ask_report(path, function_id), sys.stderr)
    if code < 0:
        die_of(-code)
    return code


def keep_off_the_gpu() -> None:
    """Deny this process, which becomes the function or its parent, the GPU's device nodes.

    Raises
    ------
    UsageError
        That is not possible here.
    """
    if gpu_nodes() or landlock_version():
        isolate()


def function_command(arguments: list[str], module: str) -> list[str]:
    """Return the interpreter's command line, with the options this interpreter was started with.

    Raises
    ------
    UsageError
        There is no script, or it cannot be read.
    """
    interpreter = [sys.executable, *_interpreter_options()]
    if module:
        return [*interpreter, "-m", module, *arguments]
    if not arguments:
        raise UsageError("nothing to run: name a SCRIPT or -m MODULE")
    script = arguments[0]
    if script != "-" and not os.path.isdir(script):
        try:
            with open(script, "rb"):
                pass
        except OSError as error:
            raise UsageError(f"cannot run {script}: {error.strerror}") from error
    if script.startswith("-") and script != "-":
        script = os.path.join(".", script)
    return [*interpreter, script, *arguments[1:]]


def _interpreter_options() -> list[str]:
    """Return options such as ``-W error`` or ``-X dev`` under which this interpreter runs, as `multiprocessing`
    passes them on."""
    return [str(option) for option in subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]


def check_against(status: Status, device: str, memory: int) -> None:
    """Refuse what the broker is sure to refuse, before the script has started.

    Raises
    ------
    UsageError
        The broker serves no such device, or grants no such quota.
    """
    known = ", ".join(each.name for each in status.slices) or "none"
    # UUIDs of whole GPUs are the broker's to match; it knows them, its status does not tell them.
    fitting = [
        each for each in status.slices if device == "auto" or each.name == device or device.startswith(("GPU-", "MIG-"))
    ]
    if not fitting:
        raise UsageError(f"no device {device!r} at this broker; it serves: {known}")
    largest = max(min(each.capacity, status.max_memory or each.capacity) for each in fitting)
    if memory > largest:
        raise UsageError(
            f"--memory {format_size(memory)} is more than a function may have here: {format_size(largest)}"
        )


def wait_for(command: Sequence[str], env: dict[str, str]) -> int:
    """Run the function as a child; returns its exit code, negative for a signal. Signals to this process are passed
    on."""
    with subprocess.Popen(command, env=env) as process:

        def pass_on(number: int, _frame: FrameType | None) -> None:
            process.send_signal(number)

        previous = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
        previous |= {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
        try:
            return process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def ask_report(path: str, function_id: str) -> FunctionReport | None:
    """Return the function's report once its sessions have ended; None if the broker has gone."""
    try:
        client = BrokerClient(path)
    except UsageError:
        return None
    try:
        deadline = time.monotonic() + _REPORT_PATIENCE
        while True:
            answer = client.ask(AskReport(function_id), FunctionReport)
            if not answer.running or time.monotonic() > deadline:
                return answer
            time.sleep(0.02)
    except UsageError:
        return None
    finally:
        client.close()


def die_of(number: int) -> None:
    """End as the function ended: by the same signal, without a second core dump."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
