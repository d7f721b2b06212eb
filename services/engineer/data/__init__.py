"""The data that models are trained and scored on: token arrays in three disjoint parts, with a fingerprint."""

from pathlib import Path

from services.engineer.data import corpus as corpora
from services.engineer.data.corpus import ByteTokens, Corpus, CorpusError, batches, heldout_blocks
from services.engineer.data.files import files_corpus
from services.engineer.data.hub import hub_corpus
from services.engineer.scales import Scale

__all__ = ["Corpus", "CorpusError", "batches", "heldout_blocks", "open_corpus", "other_corpus"]


def open_corpus(scale: Scale, cache: Path, text_seed: str | None = None) -> Corpus:
    """The corpus of a scale. `cache` stores tokenised text, and the secret without `text_seed`. Raises CorpusError."""
    secret = corpora.read_secret(cache, text_seed)
    if scale.corpus == "python-source":
        return corpora.python_source(secret)
    if scale.corpus == "documentation":
        return corpora.documentation(secret, ByteTokens())
    return (files_corpus if scale.corpus == "files" else hub_corpus)(scale, cache, secret)


def other_corpus(corpus: Corpus) -> Corpus:
    """Text from another source in the same tokens, as a gain may depend on one text. Raises CorpusError without it."""
    if corpus.name == "documentation":
        return corpora.python_source(corpus.secret)
    return corpora.documentation(corpus.secret, corpus.tokens)
