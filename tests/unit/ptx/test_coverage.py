"""The instruction table, the lowering and the coverage page say the same."""

from __future__ import annotations

from pathlib import Path

from migproxy.softgpu.ptx import coverage


def test_table_and_lowering_agree() -> None:
    assert coverage.disagreements() == []


def test_page_is_generated_from_the_table() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "ptx-coverage.md"
    assert page.read_text() == coverage.render(), "run: python -m migproxy.softgpu.ptx.coverage > docs/ptx-coverage.md"
