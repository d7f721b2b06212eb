"""Ingest: entries proposed by a language model from a paper's text, for a person to approve before they are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from services.analyst.cognition.corpus import CorpusError, CorpusFile, Paper
from services.domain.components import VOCABULARY
from services.llm.port import Message, Mind, Request, Role

PROMPT_VERSION = "extract-1"
LONGEST = 60_000
"""Characters of a paper that are shown: beginning and end, because method and ablations matter more than tables."""
_PROMPT = Path(__file__).parent / "prompts" / "extract.md"


def text_of(file: Path) -> str:
    """The text of a .pdf, .md, .tex or .txt file; raises CorpusError when there is none to be had."""
    if file.suffix.lower() not in (".pdf", ".md", ".tex", ".txt"):
        raise CorpusError(f"{file.name}: must be a .pdf, .md, .tex or .txt file")
    try:
        text = _pdf_text(file) if file.suffix.lower() == ".pdf" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, PyPdfError) as error:
        raise CorpusError(f"{file.name}: cannot be read: {error}") from error
    if not text.strip():
        raise CorpusError(f"{file.name}: holds no text; a scanned paper needs text recognition first")
    return text


def _pdf_text(file: Path) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(file).pages)


def shortened(text: str, longest: int = LONGEST) -> str:
    """The first two thirds and the last third of what fits, with a mark where something was left out."""
    if len(text) <= longest:
        return text
    head = 2 * longest // 3
    return f"{text[:head]}\n[…]\n{text[-(longest - head) :]}"


def question(text: str) -> Request[Paper]:
    """What the mind is asked: one paper with its entries, in the corpus' own schema."""
    kinds = "\n".join(f"  {component.name}: {component.description}" for component in VOCABULARY)
    system = Message("system", _PROMPT.read_text(encoding="utf-8") + kinds)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    user = Message("user", f"<paper>\n{shortened(text)}\n</paper>")
    return Request(Role.EXTRACT, "cognition", digest, (system, user), Paper, PROMPT_VERSION, temperature=0.2)


async def propose(file: Path, mind: Mind) -> CorpusFile:
    """Entries that a mind extracts from a paper; nothing is kept until they are handed to `add.keep`.

    Raises CorpusError for a file without text and MindError when no usable answer comes.
    """
    answered = await mind.ask(question(text_of(file)))
    return CorpusFile.model_validate({"paper": [answered.answer.model_dump(by_alias=True)]})
