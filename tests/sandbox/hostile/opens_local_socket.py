"""Listens on an abstract local socket that other processes could reach."""

import socket

import torch
from torch import nn

line = socket.socket(socket.AF_UNIX)
line.bind("\0left-by-a-candidate")
line.listen()
raise RuntimeError("listening")


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
