"""Which moves a text of the cognition base suggests."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from services.domain.components import VOCABULARY
from services.mixers.moves import LIBRARY, Move


@dataclass(frozen=True)
class CognitionHint:
    """What cognition offers: an entry's id, its component tags, and its text or title."""

    entry: str
    components: tuple[str, ...] = ()
    text: str = ""


def suggested(hints: Iterable[CognitionHint]) -> dict[str, str]:
    """Move name → entry that suggests it: the first entry that names a component the move adds, or the move's paper."""
    found: dict[str, str] = {}
    for hint in hints:
        tags = _tags(hint)
        for move in LIBRARY:
            if set(move.adds) & tags or (move.source is not None and move.source.arxiv in hint.text):
                found.setdefault(move.name, hint.entry)
    return found


def _tags(hint: CognitionHint) -> set[str]:
    """The hint's own tags; where it has none, the components whose names or aliases its text contains."""
    tags = {VOCABULARY.normalise(tag) for tag in hint.components if tag in VOCABULARY}
    if tags:
        return tags
    text = " " + re.sub(r"[^a-z0-9]+", " ", hint.text.lower()) + " "
    words = {c.name: (c.name, *c.aliases) for c in VOCABULARY}
    return {name for name, spellings in words.items() if any(f" {s.replace('-', ' ')} " in text for s in spellings)}


def cites(move: Move) -> str:
    """The move's source in brackets, or an empty text."""
    return f" ({move.source})" if move.source else ""
