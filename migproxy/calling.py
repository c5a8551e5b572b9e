"""``migproxy.run``: call a Python callable in a function process and get its result or its exception.

The callable travels by dill (closures and lambdas too), over pipes between this process and its own child: for code
that the
caller trusts. Broker and executors never see a pickle.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import dill

from migproxy.cli.function_environment import function_environment
from migproxy.errors import MigproxyError, SessionLost, UsageError
from migproxy.session import connect
from migproxy.sizes import parse_size

T = TypeVar("T")


def run(
    function: Callable[..., T],
    *args: Any,
    memory: str | int = 0,
    device: str = "auto",
    broker: str = "",
    timeout: float | None = None,
    **kwargs: Any,
) -> T:
    """Call ``function(*args, **kwargs)`` in a function process and return its result.

    Parameters
    ----------
    function : callable
        Any callable that dill can pickle; closures and lambdas can.
    memory : str or int, optional
        Device memory quota, e.g. ``"2GiB"`` or bytes; 0 for ``MIGPROXY_MEMORY``, else the broker's default.
    device : str, optional
        ``"auto"``, ``"software"``, a GPU's index or a UUID.
    broker : str, optional
        The broker's socket; the usual search when empty, see ``migproxy run --help``.
    timeout : float, optional
        Seconds after which the process is killed.

    Returns
    -------
    object
        What the callable returned.

    Raises
    ------
    TimeoutError
        `timeout` has passed.
    SessionLost
        The process ended without an answer.
    Exception
        Whatever the callable raised; the remote traceback is added as a note.
    """
    quota = parse_size(memory) if isinstance(memory, str) else memory
    env = function_environment(connect.find_broker(explicit=broker), quota=quota, device=device)
    return call_in_process(env, function, *args, timeout=timeout, **kwargs)


def call_in_process(
    env: dict[str, str], function: Callable[..., T], *args: Any, timeout: float | None = None, **kwargs: Any
) -> T:
    """Call `function` in a fresh interpreter with environment `env`; see `run` for results, errors and `timeout`."""
    question_read, question_write = os.pipe()
    answer_read, answer_write = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "migproxy.calling", str(question_read), str(answer_write)],
            env=env,
            pass_fds=(question_read, answer_write),
        )
    except BaseException:
        os.close(question_write)
        os.close(answer_read)
        raise
    finally:
        os.close(question_read)
        os.close(answer_write)
    try:
        with os.fdopen(question_write, "wb") as question:
            question.write(dill.dumps((function, args, kwargs), recurse=True))
        answer = _read_answer(process, answer_read, timeout)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    kind, value = dill.loads(answer)
    if kind == "result":
        result: T = value
        return result
    raise value


def _read_answer(process: subprocess.Popen[bytes], descriptor: int, timeout: float | None) -> bytes:
    import selectors
    import time

    deadline = None if timeout is None else time.monotonic() + timeout
    parts = []
    with os.fdopen(descriptor, "rb", buffering=0) as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not selector.select(left):
                raise TimeoutError(f"the callable did not answer within {timeout:g} s")
            part = stream.read(1 << 20)
            if not part:
                break
            parts.append(part)
    if not parts:
        code = process.wait()
        raise SessionLost(f"the function process ended with exit code {code} and no answer")
    return b"".join(parts)


def _serve(question: int, answer: int) -> int:
    """Run in the function process: read the call, make it, write what came of it."""
    with os.fdopen(question, "rb") as stream:
        function, args, kwargs = dill.loads(stream.read())
    try:
        reply: tuple[str, Any] = "result", function(*args, **kwargs)
        data = dill.dumps(reply, recurse=True)
    except BaseException as error:
        error.add_note("in the function process:\n" + "".join(traceback.format_exception(error)))
        try:
            data = dill.dumps(("error", error.with_traceback(None)), recurse=True)
        except Exception:
            data = dill.dumps(("error", MigproxyError(f"{type(error).__name__}: {error}")))
    with os.fdopen(answer, "wb") as stream:
        stream.write(data)
    return 0


def main() -> int:
    """Entry of the function process."""
    if len(sys.argv) != 3:
        raise UsageError("started by migproxy.run only")
    return _serve(int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
