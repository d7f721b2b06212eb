"""A corpus: one long row of tokens per part, and how text becomes tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenArray = NDArray[np.uint8] | NDArray[np.uint16]


class CorpusError(Exception):
    """The text that a scale needs is missing or too short. The message says what to do, before any training."""


class Tokens(Protocol):
    """Turns text into token numbers and back."""

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        ...

    @property
    def boundary(self) -> int:
        """The token that stands before the first one of a text without context."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without added marks."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token numbers; bytes that are not text become replacement characters."""
        ...


class ByteTokens:
    """Every byte of UTF-8 is a token; a line feed stands before the beginning."""

    vocabulary = 256
    boundary = 10

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`."""
        return bytes(tokens).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Corpus:
    """Three disjoint parts of one source of text.

    `train` is all a training child gets, `heldout` is what candidates are scored and selected by, and `verification` is
    kept for the statistics of later stages, so that selection cannot wear it out. `heldout_bytes_per_token` turns nats
    per token into bits per byte. `fingerprint` is the SHA-256 of the three parts.
    """

    name: str
    tokens: Tokens
    train: TokenArray
    heldout: TokenArray
    verification: TokenArray
    heldout_bytes_per_token: float
    fingerprint: str


def fingerprint_of(*parts: TokenArray) -> str:
    """SHA-256 over the parts' lengths, widths and contents, little-endian."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part.dtype.itemsize};".encode())
        for start in range(0, len(part), 1 << 24):
            digest.update(np.ascontiguousarray(part[start : start + (1 << 24)]).tobytes())
    return digest.hexdigest()


def heldout_blocks(part: TokenArray, count: int, context: int) -> NDArray[np.int64]:
    """`count` blocks [count, context + 1], spread evenly over a part and never overlapping.

    Raises CorpusError where the part is too short for them.
    """
    width = context + 1
    if len(part) < count * width:
        raise CorpusError(
            f"{count} held-out blocks of {context} tokens need {count * width} tokens, but the part has {len(part)}; "
            "lower heldout_blocks or context."
        )
    stride = len(part) // count
    return np.stack([part[i * stride : i * stride + width] for i in range(count)]).astype(np.int64)
