"""The documentation's links, names and commands are true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tree import ROOT, files, name_of

PAGES = [path for path in files(suffixes=(".md",)) if "node_modules" not in path.parts]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
#: A path of the repository in backticks.
NAMED = re.compile(r"`((?:migproxy|plugins|tests|docs|tools|bench|changes|\.ci)/[\w./-]*)`")
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(
        r"^#+ +(.*)$", CODE.sub("", page.read_text()) if "```" in page.read_text() else page.read_text(), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{name_of(page)} links to {target}, which is not there"
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other), f"{name_of(page)} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    for path in NAMED.findall(page.read_text()):
        assert (ROOT / path).exists(), f"{name_of(page)} names {path}, which is not there"


@pytest.mark.parametrize("page", [page for page in DECISIONS if page.name != "README.md"], ids=name_of)
def test_decisions_are_in_the_index(page: Path) -> None:
    assert f"({page.name})" in (ROOT / "docs/decisions/README.md").read_text()


def test_pages_are_reachable_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in LINK.findall(page.read_text()):
            path = target.partition("#")[0]
            if path and not re.match(r"[a-z]+:", target) and (other := (page.parent / path).resolve()).is_file():
                waiting.append(other)
    lost = [name_of(page) for page in PAGES if page not in reached and (ROOT / "docs") in page.parents]
    assert not lost, f"no link from README.md leads to {lost}"


def commands() -> list[str]:
    """Return README's shell blocks."""
    return [each.strip() for each in re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)]


def test_readme_has_its_two_commands() -> None:
    run, test = commands()[:2]
    assert "migproxy run docs/examples/" in run
    assert (ROOT / re.search(r"docs/examples/\w+\.py", run)[0]).is_file()  # type: ignore[index]
    assert "pytest" in test
    assert "[cu12,test]" in test


def test_ci_runs_the_readmes_test_command() -> None:
    printed = subprocess.run(
        ["bash", str(ROOT / ".ci/run"), "--print-test-command"], capture_output=True, text=True, timeout=20, check=True
    )
    assert printed.stdout.strip() == commands()[1]
