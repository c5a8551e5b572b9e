"""What is installed, found without `importlib.metadata`: the same as it finds."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from migproxy import distributions


def test_the_environment_of_these_tests() -> None:
    """Every distribution here, and every entry point of theirs."""
    names = {each.metadata["Name"] for each in metadata.distributions()}
    assert {name: distributions.version(name) for name in names} == {name: metadata.version(name) for name in names}
    for group in metadata.entry_points().groups:
        expected = {(each.name, each.value) for each in metadata.entry_points(group=group)}
        assert set(distributions.entry_points(group)) == expected, group
    assert distributions.version("no-such-distribution") == ""
    assert distributions.entry_points("no.such.group") == []


def install(folder: Path, name: str, version: str, entry_points: str = "") -> None:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nSummary: Ä\nversion: {version}\n\nVersion: none\n"
    (place / "METADATA").write_text(text, encoding="utf-8")
    if entry_points:
        (place / "entry_points.txt").write_text(entry_points)


def test_the_first_in_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "a", "some_library", "1.0", "[migproxy.plugins]\n# x\nmine = some.module\n\n[other]\nb = c\n")
    install(tmp_path / "b", "Some.Library", "2.0", "[migproxy.plugins]\nmine = other.module\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "gone"), str(tmp_path / "a"), str(tmp_path / "b")])
    assert distributions.version("some-library") == "1.0" == metadata.version("some-library")
    assert distributions.entry_points("migproxy.plugins") == [("mine", "some.module")]


def test_what_is_installed_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert distributions.version("late") == ""
    install(tmp_path, "late", "3")
    assert distributions.version("late") == "3"


def test_other_finders_are_asked_through_importlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as file:
        file.writestr("packed-4.dist-info/METADATA", "Metadata-Version: 2.1\nName: packed\nVersion: 4\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packed.zip")])
    assert distributions.version("packed") == "4" == metadata.version("packed")

    class Finder:
        find_distributions = staticmethod(lambda context: iter(()))
        find_spec = staticmethod(lambda *_: None)

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install(tmp_path, "plain", "5")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert distributions.version("plain") == "5"


def test_an_entry_point_loads_what_it_names() -> None:
    assert distributions.Entry("x", "os.path").load() is __import__("os").path
    assert distributions.Entry("x", "pathlib:Path.cwd").load() == Path.cwd
    with pytest.raises(ImportError):
        distributions.Entry("x", "no.such.module").load()
