"""Maintenance of the cognition base: new entries from papers, and statistics of their use.

A language model proposes entries from a paper's text; a person approves them.
"""

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from services.analyst.cognition import CorpusError, CorpusFile, Paper
from services.chassis.errors import reason_of
from services.domain.components import VOCABULARY
from services.llm.port import Message, Mind, Request, Role

PROMPT_VERSION = "extract-1"
MAX_CHARACTERS = 60_000
"""Characters of a paper that are shown, from its beginning and its end."""
_PROMPT = Path(__file__).parent / "prompts" / "extract.md"


def text_of(file: Path) -> str:
    """The text of a .pdf, .md, .tex or .txt file; raises CorpusError if there is none."""
    if file.suffix.lower() not in (".pdf", ".md", ".tex", ".txt"):
        raise CorpusError(f"{file.name}: must be a .pdf, .md, .tex or .txt file")
    try:
        if file.suffix.lower() == ".pdf":
            text = "\n".join(page.extract_text() for page in PdfReader(file).pages)
        else:
            text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, PyPdfError) as error:
        raise CorpusError(f"{file.name}: cannot be read: {reason_of(error)}") from error
    if not text.strip():
        raise CorpusError(f"{file.name}: contains no text; a scanned paper needs text recognition first")
    return text


def shortened(text: str, longest: int = MAX_CHARACTERS) -> str:
    """The text, truncated in the middle: two thirds of `longest` from its beginning and a third from its end."""
    if len(text) <= longest:
        return text
    head = 2 * longest // 3
    return f"{text[:head]}\n[…]\n{text[-(longest - head) :]}"


def question(text: str) -> Request[Paper]:
    """The request for a paper with its entries, in the corpus' schema."""
    kinds = "\n".join(f"  {component.name}: {component.description}" for component in VOCABULARY)
    system = Message("system", _PROMPT.read_text(encoding="utf-8") + kinds)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    user = Message("user", f"<paper>\n{shortened(text)}\n</paper>")
    return Request(Role.EXTRACT, "cognition", digest, (system, user), Paper, PROMPT_VERSION, temperature=0.2)


async def propose(file: Path, mind: Mind) -> CorpusFile:
    """The entries that a mind extracts from a paper. Raises CorpusError for one without text, and MindError."""
    answered = await mind.ask(question(text_of(file)))
    return CorpusFile.model_validate({"paper": [answered.answer.model_dump(by_alias=True)]})


@dataclass(frozen=True)
class Use:
    """The entries retrieved for a candidate, and its gain in fitness over its parent, None if either has none."""

    entries: tuple[str, ...]
    gain: float | None


@dataclass(frozen=True)
class EntryStatistics:
    """The uses of an entry: all, with a gain, with a positive gain, and the mean gain."""

    entry: str
    uses: int
    measured: int
    improved: int
    mean_gain: float | None


def statistics_of(uses: Iterable[Use]) -> tuple[EntryStatistics, ...]:
    """Statistics of all used entries: by improvements, then mean gain, then id.

    Repeated retrievals of one candidate count once. This is correlation: entries retrieved for weak parents have more
    room to improve.
    """
    gains: dict[str, list[float | None]] = defaultdict(list)
    for use in uses:
        for entry in dict.fromkeys(use.entries):
            gains[entry].append(use.gain)
    rows = []
    for entry, values in gains.items():
        measured = [gain for gain in values if gain is not None]
        mean = statistics.fmean(measured) if measured else None
        rows.append(EntryStatistics(entry, len(values), len(measured), sum(gain > 0 for gain in measured), mean))
    rows.sort(key=lambda row: (-row.improved, row.mean_gain is None, -(row.mean_gain or 0.0), row.entry))
    return tuple(rows)
