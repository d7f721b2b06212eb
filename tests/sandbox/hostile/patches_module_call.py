"""Replaces how every layer is called, in the middle of a step."""

import torch
from torch import nn


class Mixer(nn.Module):
    """A layer that attacks when it is run."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself, unless the attack comes first."""
        nn.Module.__call__ = lambda self, *inputs, **_: self.forward(*inputs)
        return self.inner(hidden_states)
