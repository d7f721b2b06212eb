"""The researcher's mind without a language model: a search over typed descriptions of linear-attention mixers."""

from services.mixers.description import CATALOGUE, Mixer
from services.mixers.render import render
from services.mixers.surrogate import Observation
from services.researcher.offline.search import (
    CognitionHint,
    OfflineProposal,
    SearchExhaustedError,
    Seed,
    propose_by_surrogate,
    propose_offline,
    propose_random,
)

__all__ = [
    "CATALOGUE",
    "CognitionHint",
    "Mixer",
    "Observation",
    "OfflineProposal",
    "SearchExhaustedError",
    "Seed",
    "propose_by_surrogate",
    "propose_offline",
    "propose_random",
    "render",
]
