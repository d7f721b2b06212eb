"""Makes a world of its own in which it is root."""

import ctypes
import os

import torch
from torch import nn

if ctypes.CDLL(None).unshare(0x10000000) == 0:
    print("LEAKED")
raise RuntimeError(f"user {os.getuid()}")


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
