"""``python -m bench ab`` on commits of a repository of its own: a planted slowdown is found, a null change is not.

The benchmark's clock counts calls instead of seconds, and its noise is drawn from the side's name and the round's
number: the figures are the same whatever else the machine does. What `ab` makes of the noise of real clocks is tested
in test_bench_judge.py on rounds that were recorded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Finished, run_command

pytest.importorskip("pytest_benchmark")
pytest.importorskip("cuda.bindings.driver")

ROOT = Path(__file__).resolve().parents[3]
PARTS = (
    "migproxy",
    "plugins",
    "bench",
    "pyproject.toml",
    "setup.py",
    "migproxy.pth",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
BENCHMARK = """
import random
import sys
from pathlib import Path

import pytest
from cuda.bindings import driver

SIDE = Path(sys.prefix).parent.name  # base or head
ROUNDS = Path(__file__).with_name(f"rounds-{SIDE}")


class Clock:
    def __init__(self):
        self.count = 0
        with ROUNDS.open("a+") as file:
            file.write("x")
            number = file.tell()
        # A process is faster or slower than another as a whole, by a percent or two.
        self.speed = random.Random(f"{SIDE} {number}").gauss(1.0, 0.015)

    def __call__(self, frame, event, argument):
        self.count += event in ("call", "c_call")


CLOCK = Clock()


def calls():
    return CLOCK.count * 1e-6 * CLOCK.speed


def measure(benchmark, once):
    def call():
        sys.setprofile(CLOCK)  # here, since pytest-benchmark takes it away before
        for _ in range(50):
            once()
        sys.setprofile(None)

    benchmark.extra_info["calls"] = 50
    benchmark.pedantic(call, rounds=5, warmup_rounds=1)


@pytest.fixture
def context():
    driver.cuInit(0)
    driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])


# What neither waits nor frees: the number of calls does not depend on how soon somebody answers.
@pytest.mark.benchmark(timer=calls)
def test_ask(benchmark, context):
    measure(benchmark, lambda: driver.cuMemGetInfo())


@pytest.mark.benchmark(timer=calls)
def test_look_up(benchmark, context):
    pointer = driver.cuMemAlloc(4096)[1]
    measure(benchmark, lambda: driver.cuMemGetAddressRange(pointer))
"""
#: To each question a fifth of the calls since the last one is added: all of a round, 20% longer.
SLOWDOWN = """

def _slower(call):  # type: ignore[no-untyped-def]
    import sys

    last = [0]

    def slower(*arguments):  # type: ignore[no-untyped-def]
        result = call(*arguments)
        clock = sys.getprofile()
        if clock is not None:
            for _ in range(int(0.2 * (clock.count - last[0])) - 2):  # without this function's own two
                _nothing()
            last[0] = clock.count
        return result

    return slower


def _nothing():  # type: ignore[no-untyped-def]
    pass


mem_get_info = _slower(mem_get_info)
"""
NOTHING = "\n# A change that changes nothing.\n"
ROUNDS = 3


class Repository:
    """A copy of the working tree with commits of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        self.folder.mkdir()
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, self.folder / part, ignore=unwanted)
            else:
                shutil.copy(source, self.folder / part)
        self.git("init", "-q")
        self.benchmark = folder / "bench_it.py"
        self.benchmark.write_text(BENCHMARK)

    def git(self, *words: str) -> str:
        """Run git."""
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True, timeout=60).stdout

    def commit(self, addition: str) -> str:
        """Commit the tree with an addition to the session's memory functions, and take it back; returns the commit."""
        file = self.folder / "migproxy" / "session" / "api" / "memory.py"
        before = file.read_text()
        file.write_text(before + addition)
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "-m", "One", "--allow-empty")
        file.write_text(before)
        return self.git("rev-parse", "HEAD").strip()

    def compare(self, base: str, head: str) -> Finished:
        """Run the comparison."""
        words = ["-m", "bench", "ab", base, head, str(self.benchmark), "--rounds", str(ROUNDS), "--size", "smoke"]
        return run_command([sys.executable, *words], cwd=self.folder, timeout=1200, env={"PYTHONPATH": ""})


def row(done: Finished, benchmark: str) -> tuple[float, str]:
    """Return a benchmark's ratio and verdict."""
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(f"bench_it::{benchmark} ")]
    assert len(rows) == 1, done.said
    return float(rows[0][-5]), rows[0][-1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("ab"))


@pytest.mark.timeout(1300)
def test_a_planted_slowdown_is_found_and_nothing_else(repository: Repository) -> None:
    done = repository.compare(repository.commit(NOTHING), repository.commit(SLOWDOWN))
    assert done.returncode == 1, done.said
    ratio, verdict = row(done, "ask")
    assert (verdict, 1.1 < ratio < 1.3) == ("slower", True), done.said
    assert row(done, "look_up")[1] in ("same", "unclear"), done.said
