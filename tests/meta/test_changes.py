"""Changelog fragments are well formed, and become a section of the changelog."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from tree import ROOT


@pytest.fixture(scope="module")
def changelog() -> ModuleType:
    spec = importlib.util.spec_from_file_location("changelog", ROOT / "tools/changelog.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fragments_are_well_formed(changelog: ModuleType) -> None:
    changelog.fragments(ROOT / "changes")


@pytest.mark.parametrize("name", ["thing.md", "thing.improved.md", "Thing.added.md", "thing.added.txt"])
def test_other_names_are_refused(changelog: ModuleType, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(ValueError, match=r"NAME\.KIND\.md"):
        changelog.fragments(tmp_path)


def test_a_release_takes_the_fragments(changelog: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "one.added.md").write_text("New\nthing.\n")
    (tmp_path / "changes" / "two.fixed.md").write_text("Old thing.\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n<!-- releases -->\n\n## 0.1 (2026-01-01)\n")
    monkeypatch.setattr(changelog, "ROOT", tmp_path)
    assert changelog.main(["0.2"]) == 0
    text = (tmp_path / "CHANGELOG.md").read_text()
    assert "### Added\n\n- New thing.\n\n### Fixed\n\n- Old thing.\n\n## 0.1 (2026-01-01)\n" in text
    assert not list((tmp_path / "changes").iterdir())
