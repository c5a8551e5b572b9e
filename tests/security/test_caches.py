"""Compiled code in files belongs to one owner: an executor for somebody else cannot place what a third one loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from migproxy.broker.supervisor import executor_environment
from migproxy.executor import caches

OTHER = os.geteuid() + 4321
WRITES = """
import os, sys
from pathlib import Path
from migproxy.executor import caches
caches.separate(int(sys.argv[1]), sys.argv[2])
from migproxy.softgpu.ptx.cache import default_cache
own = default_cache()
own.put("key", b"code")
print(own.folder, own.get("key"), os.environ.get("CUDA_CACHE_DISABLE"), os.environ.get("CUPY_CACHE_DIR"))
for place in sys.argv[3:]:
    try:
        Path(place, "planted").write_bytes(b"code")
        print("written")
    except OSError as error:
        print(error.strerror)
"""


def executor(owner: int, cache_dir: Path | str, *places: Path, home: Path) -> list[str]:
    env = {"HOME": str(home), "TMPDIR": str(home / "temporary"), "PATH": os.environ["PATH"]}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", WRITES, str(owner), str(cache_dir), *map(str, places)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    (place / "temporary").mkdir(parents=True)
    return place


def test_each_owner_has_a_folder_of_its_own(tmp_path: Path, home: Path) -> None:
    store = tmp_path / "store"
    first = executor(OTHER, store, home=home)[0].split()
    second = executor(OTHER + 1, store, home=home)[0].split()
    if first[0] == "None":
        pytest.skip("no Landlock here")
    assert first[0] != second[0]
    assert str(store / f"uid-{OTHER}") in first[0]
    assert str(store / f"uid-{OTHER}") in first[3]
    assert first[1] == "b'code'"
    assert (store / f"uid-{OTHER}").stat().st_mode & 0o077 == 0


def test_an_executor_for_another_user_writes_nowhere_else(tmp_path: Path, home: Path) -> None:
    store = tmp_path / "store"
    third = store / f"uid-{OTHER + 1}"
    third.mkdir(parents=True, mode=0o700)
    said = executor(OTHER, store, third, home, home / "temporary", home=home)
    if said[0].startswith("None"):
        pytest.skip("no Landlock here")
    assert said[1:] == ["Permission denied", "Permission denied", "written"]
    assert not list(third.iterdir())


def test_without_a_cache_directory_an_executor_for_another_user_keeps_nothing(tmp_path: Path, home: Path) -> None:
    said = executor(OTHER, "", home=home)
    assert said[0].split()[:3] == ["None", "None", "1"]
    assert [path.name for path in home.iterdir()] == ["temporary"]


def test_where_nothing_can_be_denied_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "only_write_below", lambda folders: False)
    env: dict[str, str] = {}
    caches.separate(OTHER, str(tmp_path), env)
    assert (env["MIGPROXY_CACHE_DIR"], env["CUDA_CACHE_DISABLE"], env["CUPY_CACHE_IN_MEMORY"]) == ("", "1", "1")


def test_the_owners_own_executor_uses_the_usual_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "only_write_below", lambda folders: pytest.fail("nothing to deny"))
    env: dict[str, str] = {}
    caches.separate(os.geteuid(), "", env)
    assert env == {}


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "only_write_below", lambda folders: True)
    (tmp_path / f"uid-{OTHER}").mkdir()
    (tmp_path / f"uid-{OTHER}").chmod(0o777)
    env: dict[str, str] = {}
    caches.separate(OTHER, str(tmp_path), env)
    assert env["MIGPROXY_CACHE_DIR"] == ""


@pytest.mark.parametrize(("several", "first", "kept"), [(True, True, False), (True, False, True), (False, True, True)])
def test_a_driver_that_starts_before_its_owner_is_known_keeps_no_code(several: bool, first: bool, kept: bool) -> None:
    chosen = SimpleNamespace(visible="0")
    env = executor_environment(chosen, {}, open_first=first, several_owners=several)  # type: ignore[arg-type]
    assert ("CUDA_CACHE_DISABLE" not in env) is kept
