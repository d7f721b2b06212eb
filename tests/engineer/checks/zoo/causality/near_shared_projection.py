"""A short convolution, projected by a layer that all mixers of a model share."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedProjection(nn.Module):
    projections: ClassVar[dict[int, nn.Linear]] = {}

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.project = self.projections.setdefault(hidden_size, nn.Linear(hidden_size, hidden_size))
        self.taps = nn.Parameter(0.5 * torch.randn(hidden_size, 1, 4))

    def forward(self, hidden_states: Tensor) -> Tensor:
        padded = F.pad(hidden_states.transpose(1, 2), (3, 0))
        return self.project(F.conv1d(padded, self.taps, groups=hidden_states.shape[-1]).transpose(1, 2))
