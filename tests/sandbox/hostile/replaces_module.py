"""Puts a module of its own in the place of a real one."""

import sys
import types

import torch
from torch import nn

sys.modules["torch.nn.functional"] = types.ModuleType("torch.nn.functional")


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
