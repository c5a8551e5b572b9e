"""``migproxy run``: a script as plain Python runs it, its CUDA calls through a broker.

The function's interpreter is in this process, so its process id, arguments, standard streams, signals, job control,
exit code and tracebacks are Python's own; there is nothing in between that could imitate them badly. `early` makes the
script's interpreter out of this one before it has begun with anything; where that is not possible, a fresh one
replaces this process (`os.execve`). Only ``--report`` needs somebody who stays: then this process waits, passes signals
on and ends as the function ended.

What is imported here is part of every function's start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from migproxy.cli.control import BrokerClient, client_or_none
from migproxy.cli.run_options import Options, parse, parse_fully, split
from migproxy.errors import UsageError
from migproxy.sizes import format_size, parse_size

if TYPE_CHECKING:
    from types import FrameType

    from migproxy.abi.control import FunctionReport, Status

_REPORT_PATIENCE = 5.0


def main(arguments: list[str]) -> int:
    """Run ``migproxy run`` with `arguments`; returns only if the function did not replace this process."""
    own, rest = split(arguments)
    return run(parse(own) or parse_fully(own), rest)


def run(options: Options, arguments: list[str]) -> int:
    """Run a script, or ``options.module``, through the broker."""
    from migproxy.cli.function_environment import add_wake_path

    arguments = prepare(options, arguments)
    command = [sys.executable, *_interpreter_options(), *(["-m", options.module] if options.module else []), *arguments]
    env = dict(os.environ)
    add_wake_path(env)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None where the caller closed the descriptor
            stream.flush()
    if not options.report:
        os.execve(command[0], command, env)
    code = wait_for(command, env)
    from migproxy.cli.report import print_report
    from migproxy.session import connect

    print_report(ask_report(env[connect.BROKER_VARIABLE], env[connect.FUNCTION_VARIABLE]), sys.stderr)
    if code < 0:
        die_of(-code)
    return code


def prepare(options: Options, arguments: list[str]) -> list[str]:
    """Make this process's environment that of a function; returns what the interpreter is given after ``-m MODULE``,
    or the script with its arguments.

    Raises
    ------
    UsageError
        The function cannot run as it is asked for.
    """
    from migproxy.session import connect
    from migproxy.versions import check_installed

    arguments = script_arguments(arguments, options.module)
    if options.private and options.broker:
        raise UsageError("--private and --broker exclude each other")
    check_installed()
    quota = parse_size(options.memory) if options.memory else 0
    canonical = options.device
    if canonical != "auto":
        from migproxy.device.choose import check_name

        canonical = check_name(options.device)
    client = None if options.private else client_or_none(options.broker)
    if client is None:
        client = BrokerClient(connect.start_private_broker(device=options.device))
    try:
        check_against(client.status(), canonical, quota)
        foreign = client.uid != os.getuid()
    finally:
        client.close()
    if foreign or options.require_isolation:
        from migproxy.cli import isolation

        # Under one's own broker this would protect nobody: the function could as well end the broker.
        if options.require_isolation or (isolation.gpu_nodes() and isolation.is_possible()):
            keep_off_the_gpu()
    from migproxy.cli.function_environment import function_variables

    os.environ.update(function_variables(client.path, quota=quota, device=options.device))
    return arguments


def keep_off_the_gpu() -> None:
    """Deny this process, which becomes the function or its parent, the GPU's device nodes.

    Raises
    ------
    UsageError
        That is not possible here.
    """
    from migproxy.cli import isolation

    if isolation.gpu_nodes() or isolation.landlock_version():
        isolation.isolate()


def script_arguments(arguments: list[str], module: str) -> list[str]:
    """Return the script, as the interpreter takes it for one whatever its name is, and its arguments.

    Raises
    ------
    UsageError
        There is no script, or it cannot be read.
    """
    if module:
        return arguments
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
    return [script, *arguments[1:]]


def _interpreter_options() -> list[str]:
    """Return options such as ``-W error`` or ``-X dev`` under which this interpreter runs, as `multiprocessing`
    passes them on."""
    import subprocess

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
    import signal
    import subprocess

    # SIGINT and SIGQUIT of a terminal reach the function by themselves.
    passed_on = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    with subprocess.Popen(command, env=env) as process:

        def pass_on(number: int, _frame: FrameType | None) -> None:
            process.send_signal(number)

        previous = {number: signal.signal(number, pass_on) for number in passed_on}
        previous |= {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
        try:
            return process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def ask_report(path: str, function_id: str) -> FunctionReport | None:
    """Return the function's report once its sessions have ended; None if the broker has gone."""
    import time

    from migproxy.abi.control import AskReport, FunctionReport

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
    import signal

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
