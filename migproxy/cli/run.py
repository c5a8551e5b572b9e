"""``migproxy run``: a script as plain Python runs it, its CUDA calls through a broker.

The function is a fresh interpreter that *replaces* this process (`os.execve`), so its process id, arguments, standard
streams, signals, job control, exit code and tracebacks are Python's own; there is nothing in between that could
imitate them badly. Only ``--report`` needs somebody who stays: then this process waits, passes signals on and ends as
the function ended.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "run",
        context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
        help="Run SCRIPT, or -m MODULE, through the broker. Options after the script are the script's own.",
    )(run)


def run(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="SCRIPT|-m MODULE [ARGS]...", show_default=False)
    ] = None,
    module: Annotated[str, typer.Option("-m", metavar="MODULE", help="Run a module as a script, like python -m.")] = "",
    broker: Annotated[str, typer.Option(help="Socket of the broker to use.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Start a broker for this run only.")] = False,
    memory: Annotated[str, typer.Option(help="Device memory quota, like 2GiB. Default: the broker's.")] = "",
    device: Annotated[str, typer.Option(help="auto, software, a GPU's index, a GPU-… or MIG-… UUID.")] = "auto",
    require_isolation: Annotated[
        bool, typer.Option("--require-isolation", help="Refuse to run where the script could open the GPU itself.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="At the end, print what was executed.")] = False,
) -> int:
    """Run a script through the broker."""
    command = function_command(list(arguments or []), module)
    if private and broker:
        raise UsageError("--private and --broker exclude each other")
    check_installed()
    quota = parse_size(memory) if memory else 0
    canonical = check_name(device)
    path = "" if private else connect.find_broker(explicit=broker)
    started = not path
    if started:
        path = connect.start_private_broker(device=device)
    client = BrokerClient(path)
    try:
        check_against(client.status(), canonical, quota)
        foreign = client.uid != os.getuid()
    finally:
        client.close()
    # Under one's own broker this would protect nobody: the function could as well end the broker.
    if require_isolation or (foreign and gpu_nodes() and is_possible()):
        keep_off_the_gpu()
    function_id = secrets.token_hex(8)
    env = function_environment(path, function_id=function_id, quota=quota, device=device)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None where the caller closed the descriptor
            stream.flush()
    if not report:
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


def protect_module_arguments(arguments: list[str]) -> list[str]:
    """Put ``--`` behind ``-m MODULE``, so that what follows is the module's own, as with python.

    A script's arguments need no such help: option parsing ends at the first argument that is no option.
    """
    takes_value = ("--broker", "--memory", "--device")
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "-m":
            return [*arguments[: position + 2], "--", *arguments[position + 2 :]]
        if argument.startswith("-m"):
            return [*arguments[: position + 1], "--", *arguments[position + 1 :]]
        if argument == "--" or not argument.startswith("-") or argument == "-":
            return arguments
        position += 2 if argument in takes_value else 1
    return arguments


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
