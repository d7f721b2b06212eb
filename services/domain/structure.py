"""What a program is apart from its names: a fingerprint for equality and a similarity for nearness.

Two programs that differ in identifiers, comments, docstrings, annotations or layout have one digest. Similarity is
the weighted Jaccard index of runs of five normalised tokens.
"""

import ast
import hashlib
import threading
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from services.domain.normalise import normalised_tokens

RUN = 5
"""Tokens per run: long enough to hold an operation with its operands, short enough to survive an edit nearby."""

_parsing = threading.Lock()
"""Python 3.11 counts the depth of all threads' syntax trees in one place: two that parse at once may both fail."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A structural digest (SHA-256, hex) and how often each run of tokens (its CRC-32) occurs."""

    digest: str
    runs: Mapping[int, int] = field(compare=False, repr=False)


@lru_cache(maxsize=1024)
def fingerprint(program: str) -> Fingerprint:
    """The fingerprint of a text, parsed once. Raises ``ValueError`` where it is not Python, with the line."""
    try:
        with _parsing:
            tree = ast.parse(program)
        tokens = normalised_tokens(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"program is not Python that can be parsed: {error}") from error
    told = [token.encode() for token in tokens]
    digest = hashlib.sha256(b"\x00".join(told)).hexdigest()
    runs = Counter(zlib.crc32(b"\x00".join(told[at : at + RUN])) for at in range(max(1, len(told) - RUN + 1)))
    return Fingerprint(digest, runs)


def same_structure(one: str, other: str) -> bool:
    """Whether two programs differ in names and layout at most; errors as :func:`fingerprint`."""
    return fingerprint(one) == fingerprint(other)


def similarity(one: Fingerprint, other: Fingerprint) -> float:
    """1 for equal structure, 0 for nothing in common; symmetric."""
    if one.digest == other.digest:
        return 1.0
    both = one.runs.keys() & other.runs.keys()
    shared = sum(map(min, map(one.runs.__getitem__, both), map(other.runs.__getitem__, both)))
    return shared / (sum(one.runs.values()) + sum(other.runs.values()) - shared)


def nearest(one: Fingerprint, others: Mapping[str, Fingerprint], count: int) -> list[tuple[str, float]]:
    """The ids of the ``count`` most similar programs with their similarity, best first, ties by id."""
    scored = [(name, similarity(one, other)) for name, other in others.items()]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:count]
