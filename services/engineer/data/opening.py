"""From a scale to its corpus."""

from pathlib import Path

from services.engineer.data.corpus import Corpus
from services.engineer.data.hub import HubText, hub_corpus
from services.engineer.data.python_source import python_source
from services.engineer.scales import Scale


def open_corpus(scale: Scale, cache: Path) -> Corpus:
    """The corpus that a scale names. `cache` keeps what was tokenised; bytes of Python source need none.

    Raises CorpusError, before any training, where text is missing or out of reach.
    """
    if scale.corpus == "python-source":
        return python_source()
    text = HubText(scale.dataset, scale.dataset_config, scale.text_field, scale.tokenizer)
    heldout = scale.heldout_blocks * (scale.context + 1)
    return hub_corpus(text, train_tokens=scale.tokens, heldout_tokens=heldout, cache=cache)
