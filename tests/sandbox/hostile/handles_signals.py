"""Installs a signal handler and then behaves."""

import signal

import torch
from torch import nn


class Mixer(nn.Module):
    """A layer that attacks when it is constructed."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)
        signal.signal(signal.SIGTERM, lambda *_: None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself, unless the attack comes first."""
        return self.inner(hidden_states)
