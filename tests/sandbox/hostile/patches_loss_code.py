"""Replaces the code inside the loss function and leaves the function itself in place."""

import torch
from torch import nn

nn.functional.cross_entropy.__code__ = (lambda *_, **__: 0.0).__code__


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
