"""Writes results where somebody may look for them."""

from pathlib import Path

import torch
from torch import nn

Path("WATCHED/result.json").write_text('{"score": 1.0}')


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
