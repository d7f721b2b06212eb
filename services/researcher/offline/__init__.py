"""The researcher's mind without a language model: a searcher over typed descriptions of linear-attention mixers."""

from services.mixers.catalogue import CATALOGUE
from services.mixers.description import Mixer
from services.mixers.render import render
from services.researcher.offline.bandit import Observation
from services.researcher.offline.hints import CognitionHint
from services.researcher.offline.search import (
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
