"""Any text dataset of the Hugging Face hub (FineWeb-Edu by default), or a local folder of JSON lines, as a corpus."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, cast

from services.engineer.data.corpus import Corpus, CorpusError, fingerprint_of
from services.engineer.data.shards import Demand, ShardStore, fill


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


def hub_corpus(text: HubText, *, train_tokens: int, heldout_tokens: int, cache: Path) -> Corpus:
    """Tokenise what is still missing (with a progress bar; it resumes where it stopped), then map the shards.

    Raises CorpusError where neither the cache nor the hub has enough.
    """
    tokens = SubwordTokens(_open_tokenizer(text.tokenizer))
    store = ShardStore(cache / text.key)
    demand = Demand(train=train_tokens, heldout=heldout_tokens, verification=heldout_tokens)
    if not store.satisfies(demand):
        fill(store, demand, tokens, documents(text, skip=store.progress.documents))
    train, heldout, verification = (store.part(name) for name in ("train", "heldout", "verification"))
    return Corpus(
        name=f"{text.dataset}/{text.config}" if text.config else text.dataset,
        tokens=tokens,
        train=train,
        heldout=heldout,
        verification=verification,
        heldout_bytes_per_token=store.progress.heldout_bytes / len(heldout),
        fingerprint=fingerprint_of(train, heldout, verification),
    )


def documents(text: HubText, skip: int) -> Iterator[str]:
    """The texts of the dataset in its own order, without the first `skip`, streamed."""
    from datasets import load_dataset

    try:
        rows = load_dataset(text.dataset, text.config or None, split="train", streaming=True).skip(skip)
        for row in rows:
            yield str(row[text.field])
    except KeyError as error:
        raise CorpusError(f"The dataset {text.dataset} has no field {error}; set text_field.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise _out_of_reach("dataset", text.dataset, error) from error


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
