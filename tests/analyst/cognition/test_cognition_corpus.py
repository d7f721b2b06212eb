"""The cognition base's files: their contents, and error messages for invalid files."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.analyst.cognition import CorpusError, add, load, load_with, parse, read
from services.domain.components import VOCABULARY


def test_the_shipped_corpus_holds_at_least_a_hundred_papers_each_once() -> None:
    """The base is only useful when it is broad, and ids are what everything else refers to."""
    papers = load().papers

    assert len(papers) >= 100
    assert len({paper.reference for paper in papers}) == len(papers)
    assert len({paper.title for paper in papers}) == len(papers)


def test_shipped_trigger_patterns_differ_between_entries() -> None:
    """Two entries with the same embedded field could not be told apart by search."""
    patterns = [knowledge.entry.experimental_trigger_patterns for knowledge in load().entries]

    assert len(set(patterns)) == len(patterns)
    assert all(len(pattern) >= 80 for pattern in patterns)


def test_shipped_entries_use_component_names_of_the_vocabulary() -> None:
    """Component counts are compared with those of analyses, so aliases are replaced on loading."""
    used = {name for knowledge in load().entries for name in knowledge.entry.components}

    assert used <= {component.name for component in VOCABULARY}
    assert len(used) >= 40


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"Forget Gate"', '"unheard-of"', ("2402.00001", "first-idea", "components", "unknown component")),
        ("year = 2024", "year = 2021", ("2402.00001", "is of 2024")),
        ('arxiv = "2402.00001"\n', "", ("A paper of our own", "arxiv id or a url")),
        ("background =", "backround =", ("first-idea", "field background", "required")),
        ('"2402.00001"', '"24.1"', ("field arxiv", "pattern")),
    ],
)
def test_an_error_in_a_file_names_the_paper_and_the_field(
    paper_text: str, old: str, new: str, words: tuple[str, ...]
) -> None:
    """Users write these files by hand; the message has to say where to look."""
    with pytest.raises(CorpusError) as caught:
        parse(paper_text.replace(old, new), "mine.toml")

    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    assert all(word in message for word in words), message


def test_an_addition_is_kept_and_found_beside_the_shipped_entries(tmp_path: Path, paper_text: str) -> None:
    """Entries of users are searched like shipped ones."""
    file = tmp_path / "mine.toml"
    file.write_text(paper_text, encoding="utf-8")

    ids = add(read(file), tmp_path / "kept")

    assert ids == ("2402.00001#first-idea",)
    knowledge = load_with(tmp_path / "kept").entry(ids[0])
    assert knowledge is not None
    assert knowledge.entry.components == ("forget-gate", "multi-timescale-memory")


def test_the_same_addition_twice_is_refused_and_changes_nothing(tmp_path: Path, paper_text: str) -> None:
    """Two entries under one id would make statistics ambiguous."""
    file = tmp_path / "mine.toml"
    file.write_text(paper_text, encoding="utf-8")
    add(read(file), tmp_path / "kept")

    with pytest.raises(CorpusError, match="exists twice"):
        add(read(file), tmp_path / "kept")

    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_user_may_add_an_entry_to_a_shipped_paper(tmp_path: Path, paper_text: str) -> None:
    """Entries can be added to a paper that is already in the corpus."""
    file = tmp_path / "more.toml"
    file.write_text(paper_text.replace("2402.00001", "2412.06464"), encoding="utf-8")

    assert add(read(file), tmp_path / "kept") == ("2412.06464#first-idea",)
