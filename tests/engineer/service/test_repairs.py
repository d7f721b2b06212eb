"""Repairs without a language model: each slip fails before, runs after, and nothing else is touched."""

import traceback

import pytest
import torch

from services.engineer.construction import MixerSizes
from services.engineer.program import load_mixer
from services.engineer.revision import repair_by_rules

pytestmark = pytest.mark.usefixtures("prepared_child")
HEAD = """import torch
from torch import nn

\f
class DeltaNet(nn.Module):
    def __init__(self, hidden_size=32, num_heads=2, **kwargs):
        super().__init__()
        self.h = num_heads
        self.proj = nn.Linear(hidden_size, hidden_size, bias=False)

"""
VIEW = (
    HEAD
    + """    def forward(self, hidden_states, **kwargs):
        x = self.proj(hidden_states).transpose(1, 2)
        return x.view(hidden_states.shape)
"""
)
TYPES = (
    HEAD
    + """    def forward(self, hidden_states, **kwargs):
        weight = self.proj.weight.double()
        return hidden_states @ weight
"""
)
UNEXPECTED = (
    HEAD
    + """    def mix(self, x):
        return self.proj(x)

    def forward(self, hidden_states, **kwargs):
        return self.mix(hidden_states, use_cache=False)
"""
)
MISSING = (
    HEAD
    + """    def mix(self, x, mask):
        return self.proj(x) if mask is None else self.proj(x * mask)

    def forward(self, hidden_states, **kwargs):
        return self.mix(hidden_states)
"""
)


def error_of(program: str) -> str:
    """The traceback of running the program; empty when it runs."""
    try:
        load_mixer(program, MixerSizes(width=32, heads=2))(torch.randn(1, 5, 32))
    except Exception:  # noqa: BLE001 - whatever a program raises
        return traceback.format_exc()
    return ""


@pytest.mark.parametrize("program", [VIEW, TYPES, UNEXPECTED, MISSING], ids=["view", "types", "unexpected", "missing"])
def test_a_mistake_is_repaired(program: str) -> None:
    """And the sentence says what was changed."""
    error = error_of(program)
    assert error
    repaired = repair_by_rules(program, error)

    assert repaired is not None
    assert error_of(repaired.program) == ""
    assert repaired.what


def test_tensors_made_on_the_wrong_device_follow_the_input() -> None:
    """Only seen on a GPU: the text alone is looked at here."""
    program = HEAD + "    def forward(self, x, **kwargs):\n        return self.proj(x) + torch.zeros(3, 4)[0, 0]\n"
    repaired = repair_by_rules(
        program, "RuntimeError: Expected all tensors to be on the same device, but found cuda:0 and cpu!"
    )

    assert repaired is not None
    assert "torch.zeros(3, 4, device=x.device)" in repaired.program


@pytest.mark.parametrize("error", ["", "ValueError: the idea does not work", "RuntimeError: CUDA out of memory"])
def test_errors_without_a_rule_are_left_alone(error: str) -> None:
    """Without a rule, nothing is changed."""
    assert repair_by_rules(VIEW, error) is None
