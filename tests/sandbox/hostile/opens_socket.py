"""Opens a network connection."""

import socket

import torch
from torch import nn

line = socket.create_connection(("127.0.0.1", 8), timeout=1)
print("LEAKED")


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
