"""Fills memory with tensors."""

import torch
from torch import nn


class Mixer(nn.Module):
    """A layer that attacks when it is run."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself, unless the attack comes first."""
        tensors = []
        while True:
            tensors.append(torch.ones(1 << 22))
        return self.inner(hidden_states)
