"""Writes a result of its own to whatever descriptor is open, and ends."""

import json
import os
import struct

import torch
from torch import nn

header = json.dumps({"kind": "output", "header": {"loss": 0.0}, "arrays": []}).encode()
message = struct.pack("<4sIQ", b"ASI1", len(header), 0) + header
for descriptor in range(3, 1024):
    try:
        os.write(descriptor, message)
    except OSError:
        continue
os._exit(0)


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
