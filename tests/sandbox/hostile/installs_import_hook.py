"""Would answer later imports with modules of its own."""

import sys

import torch
from torch import nn


class Finder:
    """Claims no module yet."""

    def find_spec(self, *_: object) -> None:
        """Nothing for now."""


sys.meta_path.insert(0, Finder())


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
