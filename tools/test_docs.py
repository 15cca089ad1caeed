"""What the pages and comments point to exists."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split("\n")
PAGES = [name for name in FILES if name.endswith(".md")]
SOURCES = [
    name
    for name in FILES
    if name.endswith((".c", ".cc", ".h", ".hpp", ".cu", ".cuh", ".py", ".txt", ".cmake"))
]
# A path with a folder in it that is one of the tree's.
PATH = re.compile(
    r"`((?:bench|cmake|docs|examples|include|models|patterns|python|src|tests|tools)/[\w./-]*)`"
)


def missing(names):
    """Paths that are neither files nor folders of the tree."""
    return sorted(name for name in set(names) if not (ROOT / name).exists())


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_of_a_page(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    folder = Path(page).parent
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert missing(str(folder / link) for link in links if link) == []
    assert missing(PATH.findall(text)) == []


def test_pages_and_sections_that_sources_name():
    pages, sections = set(), set()
    for name in SOURCES:
        # As one line: comments are wrapped.
        text = re.sub(r"\s*\n\s*(//|#)?\s*", " ", (ROOT / name).read_text(encoding="utf-8"))
        pages.update(re.findall(r"\bdocs/[\w/-]+\.md\b", text))
        sections.update(re.findall(r'\b(docs/[\w/-]+\.md), "([^"]+)"', text))
    assert missing(pages) == []
    assert [section for section in sorted(sections) if not has_section(*section)] == []


def has_section(page, title):
    """Whether a page has a heading, or a paragraph that begins in bold, of this name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.search(rf"^(#+ |(- )?\*\*){re.escape(title)}\b", text, re.MULTILINE) is not None
