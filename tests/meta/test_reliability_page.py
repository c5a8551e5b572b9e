"""docs/reliability.md says what the records say."""

from __future__ import annotations

import subprocess
import sys

from tree import ROOT


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "make_reliability.py"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
