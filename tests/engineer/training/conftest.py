"""What the tests of training share: a scale that takes a second, and the corpus of the standard library."""

from pathlib import Path

import pytest
import torch

from services.engineer.data import Corpus, open_corpus
from services.engineer.scales import Scale, load_scale
from tests.engineer.training.programs import SMALL


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests use few threads, since they share the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small() -> Scale:
    """Twelve steps of a model of 32 channels, no benchmarks."""
    return load_scale("tiny", SMALL)


@pytest.fixture(scope="session")
def corpus(small: Scale) -> Corpus:
    """The standard library's own source."""
    return open_corpus(small, Path("unused"), "tests")
