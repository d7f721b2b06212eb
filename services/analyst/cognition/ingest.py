"""The cognition base's upkeep: new entries from papers, and which entries paid off.

A language model proposes entries from a paper's text, for a person to approve before they are kept.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from services.analyst.cognition import CorpusError, CorpusFile, Paper
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


@dataclass(frozen=True)
class Use:
    """The entries that were retrieved for one candidate and its gain over its parent in fitness.

    `gain` is None where candidate or parent has no fitness: such a use counts, but neither as better nor as worse.
    """

    entries: tuple[str, ...]
    gain: float | None


@dataclass(frozen=True)
class EntryStatistics:
    """How often an entry was used, how many of those uses have a gain, how many improved, and the mean gain."""

    entry: str
    uses: int
    measured: int
    improved: int
    mean_gain: float | None

    @property
    def share_improved(self) -> float | None:
        """Improved of measured, 0 to 1; None without a measured use."""
        return self.improved / self.measured if self.measured else None


def statistics_of(uses: Iterable[Use]) -> tuple[EntryStatistics, ...]:
    """One row per entry that was ever used: most improvements first, then larger mean gain, then by id.

    An entry that a candidate retrieved several times counts once for it. This is correlation: entries retrieved for
    weak parents have more room to improve.
    """
    gains: dict[str, list[float | None]] = defaultdict(list)
    for use in uses:
        for entry in dict.fromkeys(use.entries):
            gains[entry].append(use.gain)
    return tuple(sorted((_row(entry, found) for entry, found in gains.items()), key=_rank))


def _row(entry: str, gains: list[float | None]) -> EntryStatistics:
    measured = [gain for gain in gains if gain is not None]
    mean = statistics.fmean(measured) if measured else None
    return EntryStatistics(entry, len(gains), len(measured), sum(gain > 0 for gain in measured), mean)


def _rank(row: EntryStatistics) -> tuple[int, bool, float, str]:
    return (-row.improved, row.mean_gain is None, -(row.mean_gain or 0.0), row.entry)
