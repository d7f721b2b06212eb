"""What models are trained and scored on: token arrays in three disjoint parts, with a fingerprint."""

from pathlib import Path

from services.engineer.data.corpus import (
    ByteTokens,
    Corpus,
    CorpusError,
    Tokens,
    batches,
    documentation,
    heldout_blocks,
    python_source,
    secret_in,
)
from services.engineer.data.files import files_corpus
from services.engineer.data.hub import DEFAULT_FIELD, HubText, hub_corpus
from services.engineer.scales import Scale

__all__ = ["Corpus", "CorpusError", "Tokens", "batches", "heldout_blocks", "open_corpus", "other_corpus"]


def open_corpus(scale: Scale, cache: Path, text_seed: str | None = None) -> Corpus:
    """The corpus that a scale names. `cache` keeps what was tokenised, and the secret where no `text_seed` is given.

    Raises CorpusError, before any training, where text is missing or out of reach.
    """
    secret = secret_in(cache, text_seed)
    if scale.corpus == "python-source":
        return python_source(secret)
    if scale.corpus == "documentation":
        return documentation(secret, ByteTokens())
    heldout = scale.heldout_blocks * (scale.context + 1)
    if scale.corpus == "files":
        return files_corpus(
            Path(scale.dataset),
            tokenizer=scale.tokenizer,
            field=scale.text_field or DEFAULT_FIELD,
            heldout_tokens=heldout,
            cache=cache,
            secret=secret,
        )
    text = HubText(scale.dataset, scale.dataset_config, scale.text_field, scale.tokenizer)
    return hub_corpus(text, train_tokens=scale.tokens, heldout_tokens=heldout, cache=cache, secret=secret)


def other_corpus(corpus: Corpus) -> Corpus:
    """Text of another source in the tokens of `corpus`: a gain that holds there is none of one text's peculiarities.

    Raises CorpusError where it is missing.
    """
    if corpus.name == "documentation":
        return python_source(corpus.secret)
    return documentation(corpus.secret, corpus.tokens)
