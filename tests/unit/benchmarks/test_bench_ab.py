"""``python -m bench ab`` on commits of a repository of its own: a planted slowdown is found, a null change is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Finished, run_command

if os.environ.get("MIGPROXY_SLOW_TESTS") != "1":
    pytest.skip("takes minutes of an idle machine: set MIGPROXY_SLOW_TESTS=1", allow_module_level=True)
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
from cuda.bindings import driver


def measure(benchmark, once):
    def call():
        for _ in range(50):
            once()

    benchmark.extra_info["calls"] = 50
    # Short rounds, of which some are disturbed by nothing.
    benchmark.pedantic(call, rounds=150, warmup_rounds=3, setup=lambda: driver.cuCtxSynchronize() and None)


def test_allocate(benchmark):
    driver.cuInit(0)
    driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
    measure(benchmark, lambda: driver.cuMemFree(driver.cuMemAlloc(4096)[1]))


def test_ask(benchmark):
    driver.cuInit(0)
    driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
    measure(benchmark, driver.cuMemGetInfo)
"""
#: Each allocation is followed by a busy loop of a fifth of the time since the last one: all of a round, 20% longer.
SLOWDOWN = """

def _slower(call):  # type: ignore[no-untyped-def]
    from time import perf_counter

    last = [perf_counter()]

    def slower(*arguments):  # type: ignore[no-untyped-def]
        result = call(*arguments)
        now = perf_counter()
        end = now + 0.2 * (now - last[0])
        while perf_counter() < end:
            pass
        last[0] = perf_counter()
        return result

    return slower


mem_alloc = _slower(mem_alloc)
"""
NOTHING = "\n# A change that changes nothing.\n"


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
        words = ["-m", "bench", "ab", base, head, str(self.benchmark), "--rounds", "6", "--size", "smoke"]
        return run_command([sys.executable, *words], cwd=self.folder, timeout=400, env={"PYTHONPATH": ""})


def verdict(done: Finished, benchmark: str) -> str:
    """Return the last word of a benchmark's line."""
    rows = [line for line in done.stdout.splitlines() if line.startswith(f"bench_it::{benchmark} ")]
    assert len(rows) == 1, done.said
    return rows[0].split()[-1]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("ab"))


@pytest.mark.timeout(450)
def test_a_planted_slowdown_is_found_and_nothing_else(repository: Repository) -> None:
    done = repository.compare(repository.commit(NOTHING), repository.commit(SLOWDOWN))
    assert done.returncode == 1, done.said
    assert verdict(done, "allocate") == "slower", done.said
    assert verdict(done, "ask") in ("same", "unclear"), done.said
