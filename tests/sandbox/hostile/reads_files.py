"""Looks for secrets in files that anybody on the machine may read."""

from pathlib import Path

import torch
from torch import nn

for path in Path("WATCHED").glob("**/*"):
    print(path.read_text())
print(Path("WATCHED/secret").read_text())


class Mixer(nn.Module):
    """A harmless layer, for what comes after the attack."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return self.inner(hidden_states)
