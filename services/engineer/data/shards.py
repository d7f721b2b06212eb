"""Tokens on disk: uint16 shards per part, written whole or not at all, and how far the tokenising has come."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from services.engineer.data.corpus import CorpusError, Tokens
from services.engineer.data.python_source import part_of

SHARD_TOKENS = 1 << 24
PARTS = ("train", "heldout", "verification")


@dataclass(frozen=True)
class Demand:
    """How many tokens each part needs."""

    train: int
    heldout: int
    verification: int


@dataclass(frozen=True)
class Progress:
    """What the shards hold: tokens per part, documents read, and the bytes of text behind the held-out tokens."""

    train: int = 0
    heldout: int = 0
    verification: int = 0
    documents: int = 0
    flushes: int = 0
    heldout_bytes: int = 0


class ShardStore:
    """One folder of shards. `progress.json` is replaced last: what it counts is on disk, the rest is redone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "progress.json"
        saved = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        self.progress = Progress(**saved)

    def satisfies(self, demand: Demand) -> bool:
        """Whether every part is long enough."""
        return all(getattr(self.progress, name) >= getattr(demand, name) for name in PARTS)

    def append(self, buffers: dict[str, list[int]], documents: int, heldout_bytes: int) -> None:
        """Write one shard per part that has tokens, then count them."""
        self._folder.mkdir(parents=True, exist_ok=True)
        grown = {name: getattr(self.progress, name) + len(buffers[name]) for name in PARTS}
        for name in PARTS:
            if buffers[name]:
                np.array(buffers[name], dtype="<u2").tofile(self._shard(name, self.progress.flushes))
        self.progress = replace(
            self.progress,
            **grown,
            documents=self.progress.documents + documents,
            flushes=self.progress.flushes + 1,
            heldout_bytes=self.progress.heldout_bytes + heldout_bytes,
        )
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self.progress)), encoding="utf-8")
        partial.replace(self._file)

    def part(self, name: str) -> NDArray[np.uint16]:
        """A part as one memory-mapped row of tokens; several shards are joined into one file the first time."""
        joined = self._folder / f"{name}.{self.progress.flushes}.joined"
        if not joined.is_file():
            self._join(name, joined)
        return np.memmap(joined, dtype="<u2", mode="r")

    def _shard(self, name: str, number: int) -> Path:
        return self._folder / f"{name}-{number:05d}.bin"

    def _join(self, name: str, joined: Path) -> None:
        partial = joined.with_suffix(".partial")
        with partial.open("wb") as file:
            for number in range(self.progress.flushes):
                if self._shard(name, number).is_file():
                    file.write(self._shard(name, number).read_bytes())
        partial.replace(joined)


def fill(store: ShardStore, demand: Demand, tokens: Tokens, texts: Iterable[str], shard: int = SHARD_TOKENS) -> None:
    """Tokenise `texts` (those after `store.progress.documents`) until the demand is met, a shard at a time.

    A document's part is decided by the hash of its text. Raises CorpusError when the texts end too soon.
    """
    buffers, documents, heldout_bytes = _empty(), 0, 0
    with tqdm(
        total=demand.train, initial=store.progress.train, unit="tok", unit_scale=True, desc="tokenising", disable=None
    ) as bar:
        for text in texts:
            content = text.encode("utf-8")
            part, row = part_of(content), [*tokens.encode(text), tokens.boundary]
            buffers[part] += row
            documents += 1
            heldout_bytes += len(content) if part == "heldout" else 0
            bar.update(len(row) if part == "train" else 0)
            if sum(map(len, buffers.values())) >= shard or _enough(store, buffers, demand):
                store.append(buffers, documents, heldout_bytes)
                buffers, documents, heldout_bytes = _empty(), 0, 0
                if store.satisfies(demand):
                    return
    if documents:
        store.append(buffers, documents, heldout_bytes)
    if not store.satisfies(demand):
        raise CorpusError(
            f"The dataset ends after {store.progress.train} training and {store.progress.heldout} held-out tokens, "
            f"but {demand.train} and {demand.heldout} are needed; choose a larger one or lower tokens."
        )


def _empty() -> dict[str, list[int]]:
    return {name: [] for name in PARTS}


def _enough(store: ShardStore, buffers: dict[str, list[int]], demand: Demand) -> bool:
    return all(getattr(store.progress, name) + len(buffers[name]) >= getattr(demand, name) for name in PARTS)
