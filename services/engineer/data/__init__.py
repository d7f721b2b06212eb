"""What models are trained and scored on: token arrays in three disjoint parts, with a fingerprint."""

from pathlib import Path

from services.engineer.data.corpus import Corpus, CorpusError, Tokens, batches, heldout_blocks, secret_in
from services.engineer.data.hub import HubText, hub_corpus
from services.engineer.data.python_source import python_source
from services.engineer.scales import Scale

__all__ = ["Corpus", "CorpusError", "Tokens", "batches", "heldout_blocks", "open_corpus"]


def open_corpus(scale: Scale, cache: Path, text_seed: str | None = None) -> Corpus:
    """The corpus that a scale names. `cache` keeps what was tokenised, and the secret where no `text_seed` is given.

    Raises CorpusError, before any training, where text is missing or out of reach.
    """
    secret = secret_in(cache, text_seed)
    if scale.corpus == "python-source":
        return python_source(secret)
    text = HubText(scale.dataset, scale.dataset_config, scale.text_field, scale.tokenizer)
    heldout = scale.heldout_blocks * (scale.context + 1)
    return hub_corpus(text, train_tokens=scale.tokens, heldout_tokens=heldout, cache=cache, secret=secret)
