"""A text dataset of the Hugging Face hub, or a local folder in its format, as a corpus.

Tokens are stored as uint16 shards per part. Shards are written atomically; tokenising resumes after an interruption.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from services.engineer.data.corpus import ByteTokens, Corpus, CorpusError, Tokens, part_of
from services.engineer.scales import Scale

SHARD_TOKENS = 1 << 24
BYTES = "bytes"
DEFAULT_FIELD = "text"
PARTS = ("train", "heldout", "verification")
HUB_SECONDS, HUB_REPETITIONS = 4.0, 1
"""For the first question to the hub. Its client repeats every other one for half a minute."""


class HubTokenizer(Protocol):
    """The part of transformers' tokenizer interface that is used here."""

    def __len__(self) -> int: ...
    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...
    def decode(self, tokens: Sequence[int]) -> str: ...

    @property
    def eos_token_id(self) -> int | None: ...


class SubwordTokens:
    """A tokenizer of the hub as `Tokens`. Its vocabulary must fit in 16 bits."""

    def __init__(self, tokenizer: HubTokenizer) -> None:
        if len(tokenizer) > 1 << 16:
            raise CorpusError(f"The tokenizer has {len(tokenizer)} tokens; shards hold 65536 at most: choose another.")
        if tokenizer.eos_token_id is None:
            raise CorpusError("The tokenizer has no end-of-text token to put between documents; choose another.")
        self._tokenizer = tokenizer
        self.vocabulary = len(tokenizer)
        self.boundary = tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens))


def hub_corpus(scale: Scale, cache: Path, secret: bytes) -> Corpus:
    """Tokenise missing text (resuming earlier work, with a progress bar), then map the shards.

    Dataset and tokenizer are names on the hub or local folders. Raises CorpusError if cache and hub have too little.
    """
    tokens, dataset, config = open_tokens(scale.tokenizer), scale.dataset, scale.dataset_config
    source = {"dataset": dataset, "config": config, "field": scale.text_field, "tokenizer": scale.tokenizer}
    store = ShardStore(cache / hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:16])
    demand = {"train": scale.tokens, "heldout": scale.heldout_tokens, "verification": scale.heldout_tokens}
    if not store.satisfies(demand):
        fill(store, demand, tokens, documents(scale, skip=store.progress.documents), secret)
    name = f"{dataset}/{config}" if config else dataset
    return Corpus.of(name, tokens, map(store.part, PARTS), store.progress.heldout_bytes, secret)


def documents(scale: Scale, skip: int) -> Iterator[str]:
    """Stream the texts of the dataset in its own order, without the first `skip`."""
    from datasets import load_dataset

    if unreachable := _hub_error(scale.dataset):
        raise _unreadable("dataset", scale.dataset, unreachable)
    try:
        rows = load_dataset(scale.dataset, scale.dataset_config or None, split="train", streaming=True).skip(skip)
        for row in rows:
            yield str(row[scale.text_field or DEFAULT_FIELD])
    except KeyError as error:
        raise CorpusError(f"The dataset {scale.dataset} has no field {error}; set text_field.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable("dataset", scale.dataset, error) from error


def open_tokens(tokenizer: str) -> Tokens:
    """Bytes for "bytes" or no name; else a tokenizer of the hub, of its cache, or in a folder. Raises CorpusError."""
    if tokenizer in ("", BYTES):
        return ByteTokens()
    from transformers import AutoTokenizer

    unreachable = _hub_error(tokenizer)
    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=unreachable is not None)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable("tokenizer", tokenizer, unreachable or error) from error
    return SubwordTokens(cast("HubTokenizer", loaded))


def _hub_error(name: str) -> Exception | None:
    """Why the hub cannot be asked for `name`; None if it answers, and for a local folder."""
    if Path(name).exists():
        return None
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined,unused-ignore]

    try:
        http_backoff("HEAD", ENDPOINT, max_retries=HUB_REPETITIONS, timeout=HUB_SECONDS)
    except Exception as error:  # noqa: BLE001 - of requests, httpx or httpx2, depending on its version
        return error
    return None


def _unreadable(what: str, name: str, error: Exception) -> CorpusError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CorpusError(
        f"The {what} {name} cannot be read ({first_line}): connect to the Hugging Face hub, give a local folder, "
        "or use the scale tiny, which needs no network."
    )


Demand = Mapping[str, int]
"""The number of tokens needed in each part."""


@dataclass(frozen=True)
class Progress:
    """The content of the shards: tokens per part, documents read, and the bytes of held-out text."""

    train: int = 0
    heldout: int = 0
    verification: int = 0
    documents: int = 0
    flushes: int = 0
    heldout_bytes: int = 0


class ShardStore:
    """A folder of shards. `progress.json` is replaced last, so that it only counts tokens on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "progress.json"
        saved = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        self.progress = Progress(**saved)

    def satisfies(self, demand: Demand, buffers: Mapping[str, Sequence[int]] = MappingProxyType({})) -> bool:
        """Whether every part, including its buffer, is long enough."""
        return all(getattr(self.progress, name) + len(buffers.get(name, ())) >= demand[name] for name in PARTS)

    def append(self, buffers: Mapping[str, Sequence[int]], documents: int, heldout_bytes: int) -> None:
        """Write one shard per buffer, then update the progress."""
        self._folder.mkdir(parents=True, exist_ok=True)
        grown = {name: getattr(self.progress, name) + len(buffer) for name, buffer in buffers.items()}
        for name, buffer in buffers.items():
            np.array(buffer, dtype="<u2").tofile(self._shard(name, self.progress.flushes))
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
        """A part as one memory-mapped row of tokens; its shards are concatenated to one file the first time."""
        joined = self._folder / f"{name}.{self.progress.flushes}.joined"
        if not joined.is_file():
            partial = joined.with_suffix(".partial")
            with partial.open("wb") as file:
                for number in range(self.progress.flushes):
                    if self._shard(name, number).is_file():
                        file.write(self._shard(name, number).read_bytes())
            partial.replace(joined)
        return np.memmap(joined, dtype="<u2", mode="r")

    def _shard(self, name: str, number: int) -> Path:
        return self._folder / f"{name}-{number:05d}.bin"


def fill(
    store: ShardStore, demand: Demand, tokens: Tokens, texts: Iterable[str], secret: bytes, shard: int = SHARD_TOKENS
) -> None:
    """Tokenise `texts` (those after `store.progress.documents`) until the demand is met, `shard` tokens at a time.

    Raises CorpusError if there is too little text.
    """
    buffers, documents, heldout_bytes = defaultdict[str, list[int]](list), 0, 0
    total, initial = demand["train"], store.progress.train
    with tqdm(total=total, initial=initial, unit="tok", unit_scale=True, desc="tokenising", disable=None) as bar:
        for text in texts:
            content = text.encode("utf-8")
            part, row = part_of(content, secret), [*tokens.encode(text), tokens.boundary]
            buffers[part] += row
            documents += 1
            heldout_bytes += len(content) if part == "heldout" else 0
            bar.update(len(row) if part == "train" else 0)
            if sum(map(len, buffers.values())) >= shard or store.satisfies(demand, buffers):
                store.append(buffers, documents, heldout_bytes)
                buffers, documents, heldout_bytes = defaultdict(list), 0, 0
                if store.satisfies(demand):
                    return
    if documents:
        store.append(buffers, documents, heldout_bytes)
    if not store.satisfies(demand):
        raise CorpusError(
            f"The dataset ends after {store.progress.train} training and {store.progress.heldout} held-out tokens, "
            f"but {demand['train']} and {demand['heldout']} are needed; choose a larger one or lower tokens."
        )
