"""A projection whose result is forgotten: forward returns its own input."""

from torch import Tensor, nn


class Unreturned(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.project(hidden_states)
        return hidden_states
