"""Ingest: the text that the mind receives, and the error for a file without text."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from services.analyst.cognition import CorpusError, Paper
from services.analyst.cognition.ingest import propose, question, shortened, text_of
from services.domain.components import VOCABULARY
from services.llm.port import A, Answered, Request, Role


class Reader:
    """A mind that always answers with one paper, as a language model would after validation."""

    name = "reader"

    def __init__(self, paper_text: str) -> None:
        self._paper_text = paper_text

    async def ask(self, request: Request[A]) -> Answered[A]:
        """Validate a fixed answer against what was asked for."""
        return Answered(request.answer.model_validate(tomllib.loads(self._paper_text)["paper"][0]), ())


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_question_carries_the_text_and_the_whole_vocabulary() -> None:
    """Tags outside the vocabulary would be refused later, so the mind must know it."""
    request = question("We propose a gate.")

    assert request.role is Role.EXTRACT
    assert request.answer is Paper
    assert all(component.name in request.messages[0].text for component in VOCABULARY)
    assert "We propose a gate." in request.messages[1].text


def test_a_long_paper_keeps_its_beginning_and_its_end() -> None:
    """The method is at the beginning of a paper and the ablations at its end."""
    text = shortened("a" * 500 + "b" * 500, longest=300)

    assert text.startswith("a" * 200)
    assert text.endswith("b" * 100)
    assert "[…]" in text


async def test_proposals_come_back_validated_and_nothing_is_kept(tmp_path: Path, paper_text: str) -> None:
    """A person approves before anything enters the base."""
    paper = tmp_path / "paper.md"
    paper.write_text("# Two states", encoding="utf-8")

    proposals = await propose(paper, Reader(paper_text))

    assert proposals.papers[0].entries[0].key == "first-idea"
    assert _names(tmp_path) == ["paper.md"]


@pytest.mark.parametrize(("name", "content"), [("empty.md", b"  "), ("paper.docx", b"x"), ("broken.pdf", b"no pdf")])
def test_a_file_without_readable_text_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    """The message is shown to the user."""
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(CorpusError, match=name):
        text_of(file)
