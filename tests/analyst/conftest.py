"""One paper as a user would write it."""

import pytest

PAPER = """
[[paper]]
arxiv = "2402.00001"
title = "A paper of our own"
authors = ["A. Author"]
year = 2024

[[paper.entry]]
key = "first-idea"
design_insight = "Keep a second state that forgets more slowly than the first one does."
experimental_trigger_patterns = "Loss on distant tokens is high while nearby tokens are predicted well by the layer."
background = "One state with one decay has to compromise between near and far context."
algorithmic_innovation = "Two states with different decays are summed through a learned gate per head."
implementation_guidance = "Start the slow decay at 0.999 and the fast one at 0.9; both in log space."
components = ["Forget Gate", "multi_scale_memory"]
"""


@pytest.fixture
def paper_text() -> str:
    """The text of a valid TOML file with one paper and one entry."""
    return PAPER
