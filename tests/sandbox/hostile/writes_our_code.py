"""Changes the engineer's own source for the next candidate."""

from pathlib import Path

import torch
from services.sandbox import wire
from torch import nn

with Path(wire.__file__).open("a") as target:
    target.write("")


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
