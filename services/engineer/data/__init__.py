"""What models are trained and scored on: token arrays in three disjoint parts, with a fingerprint."""

from services.engineer.data.corpus import Corpus, CorpusError, Tokens, heldout_blocks
from services.engineer.data.opening import open_corpus
from services.engineer.data.order import batches

__all__ = ["Corpus", "CorpusError", "Tokens", "batches", "heldout_blocks", "open_corpus"]
