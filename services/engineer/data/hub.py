"""Any text dataset of the Hugging Face hub (FineWeb-Edu by default), or a local folder of JSON lines, as a corpus.

Its tokens lie on disk as uint16 shards per part, written whole or not at all, with how far the tokenising has come.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from services.engineer.data.corpus import ByteTokens, Corpus, CorpusError, Tokens, fingerprint_of, part_of

SHARD_TOKENS = 1 << 24
BYTES = "bytes"
DEFAULT_FIELD = "text"
PARTS = ("train", "heldout", "verification")


class HubTokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def __len__(self) -> int: ...
    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, tokens: Sequence[int]) -> str: ...

    @property
    def eos_token_id(self) -> int | None: ...


@dataclass(frozen=True)
class HubText:
    """Where text comes from. `dataset` is a name on the hub or a local folder; so is `tokenizer`."""

    dataset: str
    config: str
    field: str
    tokenizer: str

    @property
    def key(self) -> str:
        """Names the folder of its shards."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


class SubwordTokens:
    """A tokenizer of the hub behind our own three methods. Its vocabulary must fit 16 bits."""

    def __init__(self, tokenizer: HubTokenizer) -> None:
        if len(tokenizer) > 1 << 16:
            raise CorpusError(f"The tokenizer has {len(tokenizer)} tokens; shards hold 65536 at most: choose another.")
        if tokenizer.eos_token_id is None:
            raise CorpusError("The tokenizer has no end-of-text token to put between documents; choose another.")
        self._tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        self.boundary = tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        """Token numbers without added marks."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`."""
        return self._tokenizer.decode(list(tokens))


def hub_corpus(text: HubText, *, train_tokens: int, heldout_tokens: int, cache: Path, secret: bytes) -> Corpus:
    """Tokenise what is still missing (with a progress bar; it resumes where it stopped), then map the shards.

    Raises CorpusError where neither the cache nor the hub has enough.
    """
    tokens = open_tokens(text.tokenizer)
    store = ShardStore(cache / text.key)
    demand = Demand(train=train_tokens, heldout=heldout_tokens, verification=heldout_tokens)
    if not store.satisfies(demand):
        fill(store, demand, tokens, documents(text, skip=store.progress.documents), secret)
    train, heldout, verification = (store.part(name) for name in ("train", "heldout", "verification"))
    return Corpus(
        name=f"{text.dataset}/{text.config}" if text.config else text.dataset,
        tokens=tokens,
        train=train,
        heldout=heldout,
        verification=verification,
        heldout_bytes_per_token=store.progress.heldout_bytes / len(heldout),
        fingerprint=fingerprint_of(train, heldout, verification),
        secret=secret,
    )


def documents(text: HubText, skip: int) -> Iterator[str]:
    """The texts of the dataset in its own order, without the first `skip`, streamed."""
    from datasets import load_dataset

    try:
        rows = load_dataset(text.dataset, text.config or None, split="train", streaming=True).skip(skip)
        for row in rows:
            yield str(row[text.field or DEFAULT_FIELD])
    except KeyError as error:
        raise CorpusError(f"The dataset {text.dataset} has no field {error}; set text_field.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise _out_of_reach("dataset", text.dataset, error) from error


def open_tokens(tokenizer: str) -> Tokens:
    """Bytes for "bytes" and for no name; else a tokenizer of the hub or in a folder. Raises CorpusError."""
    return ByteTokens() if tokenizer in ("", BYTES) else SubwordTokens(_open_tokenizer(tokenizer))


def _open_tokenizer(name: str) -> HubTokenizer:
    from transformers import AutoTokenizer

    try:
        return cast("HubTokenizer", AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError, RuntimeError) as error:
        raise _out_of_reach("tokenizer", name, error) from error


def _out_of_reach(what: str, name: str, error: Exception) -> CorpusError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CorpusError(
        f"The {what} {name} cannot be read ({first_line}): connect to the Hugging Face hub, give a local folder, "
        "or use the scale tiny, which needs no network."
    )


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


def fill(
    store: ShardStore,
    demand: Demand,
    tokens: Tokens,
    texts: Iterable[str],
    secret: bytes,
    shard: int = SHARD_TOKENS,
) -> None:
    """Tokenise `texts` (those after `store.progress.documents`) until the demand is met, a shard at a time.

    A document's part is decided by a keyed hash of its text. Raises CorpusError when the texts end too soon.
    """
    buffers, documents, heldout_bytes = _empty(), 0, 0
    with tqdm(
        total=demand.train, initial=store.progress.train, unit="tok", unit_scale=True, desc="tokenising", disable=None
    ) as bar:
        for text in texts:
            content = text.encode("utf-8")
            part, row = part_of(content, secret), [*tokens.encode(text), tokens.boundary]
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
