"""A projection of reordered features, whose order is a frozen parameter of integers."""

import torch
from torch import Tensor, nn


class Reordered(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_size, hidden_size, bias=False)
        self.order = nn.Parameter(torch.arange(hidden_size).flip(0), requires_grad=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.project(hidden_states[..., self.order])
