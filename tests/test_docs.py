"""What the pages name exists: links, paths, and the decisions in their index."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / name / "README.md" for name in ("native", "benchmarks", "tests")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
PAGES = [page for page in PAGES if page.exists()]
NOT_YET = {}
"""Modules that docs/ names before they are there."""


def each_page(test):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))(test)


def code_spans(page):
    """What stands in backticks, outside of fenced code."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return [span for span in re.findall(r"`([^`\n]+)`", text) if "NAME" not in span]  # of a file to be written


@each_page
def test_every_relative_link_leads_to_a_file(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link and not link.startswith("#"):
            assert (page.parent / link.partition("#")[0]).exists(), link


@each_page
def test_every_path_from_the_root_exists(page):
    for span in code_spans(page):
        path = span.partition("::")[0]
        if re.match(r"(src|tests|docs|native|benchmarks|examples)/\S*$", path):
            assert list(ROOT.glob(path)), path


@each_page
def test_every_module_that_docs_name_exists(page):
    if page.is_relative_to(ROOT / "docs"):
        for span in code_spans(page):
            if re.fullmatch(r"[\w/]+/\w+\.py", span) and span not in NOT_YET:
                assert (ROOT / "src" / "kameleon" / span).exists() or (ROOT / span).exists(), span
            if re.fullmatch(r"test_\w+\.py", span):
                assert list((ROOT / "tests").rglob(span)), span


def test_the_index_has_every_decision():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    pages = {page.name for page in folder.glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\((\S+\.md)\)", index)) - {"../log.md"}


def test_every_test_that_the_readme_of_the_tests_names_exists():
    file = ""
    for span in code_spans(ROOT / "tests" / "README.md"):
        if found := re.fullmatch(r"((?:\w+/)*test_\w+\.py)?::(test_\w+)", span):
            file = found[1] or file
            assert f"def {found[2]}(" in (ROOT / "tests" / file).read_text(), span
