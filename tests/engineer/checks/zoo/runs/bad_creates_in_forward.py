"""A mean of the past, whose scale is created by the first forward, so that no optimiser knows it."""

import torch
from torch import Tensor, nn


class LateScale(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.scale = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = nn.Parameter(torch.ones_like(hidden_states[0, 0]))
        mixed = self.value(hidden_states).cumsum(1)
        counts = torch.arange(1, mixed.shape[1] + 1, device=mixed.device)[:, None]
        return self.output(mixed / counts * self.scale)
