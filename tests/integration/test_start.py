"""What a function's process does not do before its script's first result: each of these took milliseconds of every
start."""

from __future__ import annotations

import os

import pytest
from processes import RunScript

from migproxy.session.connect import BROKER_VARIABLE
from migproxy.testing.processes import functions_environment

FIRST_RESULT = "import cupy; assert int(cupy.arange(10).sum()) == 45"

#: Parts of migproxy that this script has no use for.
UNUSED = {
    "migproxy.abi.tables",
    "migproxy.session.library",
    "migproxy_plugins.cuda.arrays",
    "migproxy_plugins.cuda.driver_graphs",
    "migproxy_plugins.numba.driver",
}


@pytest.fixture(scope="module")
def broker() -> str:
    """A running broker: starting a private one is not part of what is looked at here."""
    return functions_environment(os.getpid())[BROKER_VARIABLE]


@pytest.mark.parametrize(
    ("script", "absent"),
    [
        # What no script asked for.
        ("", {"numpy", "cupy", "numba", "llvmlite", "argparse", "subprocess", "typer", "email", "importlib.metadata"}),
        (FIRST_RESULT, {"llvmlite", "numba", "argparse", "typer", "scipy", *UNUSED}),
    ],
)
def test_modules_that_nobody_asked_for_are_not_imported(
    run_script: RunScript, broker: str, script: str, absent: set[str]
) -> None:
    text = f"{script}\nimport sys\nprint(sorted(set({sorted(absent)!r}).intersection(sys.modules)))\n"
    run_script(text, options=("--broker", broker))  # compiles what is kept in files from then on
    done = run_script(text, options=("--broker", broker))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", ""), done.said


def test_libraries_that_a_function_cannot_call_are_not_loaded(run_script: RunScript, broker: str) -> None:
    done = run_script(
        f"{FIRST_RESULT}\n"
        "maps = open('/proc/self/maps').read()\n"
        "print([name for name in ('cublas', 'cutensor', 'cusolver', 'cusparse', 'nccl') if f'lib{name}' in maps])\n",
        options=("--broker", broker),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", ""), done.said
