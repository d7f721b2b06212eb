"""docs/architecture.md names only what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
LINKS = sorted(set(re.findall(r"\]\(\.\./([^)#]+)\)", TEXT)))
CODE = sorted(set(re.findall(r"`((?:services|tests|proto|docs|deploy|bench)/[^`]*)`", TEXT)))


@pytest.mark.parametrize("link", LINKS)
def test_a_linked_file_exists(link: str) -> None:
    """Links are relative to docs/."""
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("name", CODE)
def test_a_named_file_or_symbol_exists(name: str) -> None:
    """`path` is a file or folder; `path::symbol` is defined in that file."""
    path, _, symbol = name.partition("::")

    assert (ROOT / path).exists()
    if symbol:
        definition = rf"^(?:class|def|async def) {re.escape(symbol)}\b"
        assert re.search(definition, (ROOT / path).read_text("utf-8"), re.MULTILINE)


def test_the_glossary_is_short_and_sorted() -> None:
    """At most 40 words."""
    rows = re.findall(r"^\| ([^|]+) \|", TEXT.partition("## Glossary")[2], re.MULTILINE)
    words = [row.strip() for row in rows[1:] if not row.startswith("-")]

    assert words == sorted(words, key=str.lower)
    assert 20 < len(words) <= 40


def test_a_candidate_is_followed_in_at_most_seven_files() -> None:
    """The numbered list links each file of the way once."""
    path = TEXT.partition("## The path of one candidate")[2].partition("\n## ")[0]

    assert 0 < len(set(re.findall(r"\]\(\.\./([^)]+)\)", path))) <= 7
