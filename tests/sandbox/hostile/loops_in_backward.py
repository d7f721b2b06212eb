"""Never finishes a backward pass."""

import torch
from torch import nn


class Trap(torch.autograd.Function):
    """Identity whose gradient never comes."""

    @staticmethod
    def forward(context: object, values: torch.Tensor) -> torch.Tensor:
        """Give the values back."""
        return values.clone()

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        """Wait for ever."""
        while True:
            pass


class Mixer(nn.Module):
    """A layer that is harmless until its gradient is asked for."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map each position by itself."""
        return Trap.apply(self.inner(hidden_states))
