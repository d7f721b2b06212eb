from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def windows_within(length, most):
    """1, 2, 4 and so on, at most the length."""
    return [1 << power for power in range(most) if 1 << power <= length]


class DeltaNet(nn.Module):
    """Moving averages over several windows, mixed by weights that are shared out among those that fit the input."""

    def __init__(self, hidden_size=1024, num_heads=4, layer_idx=None, most=6, **kwargs):
        super().__init__()
        self.most = most
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.scores = nn.Linear(hidden_size, most)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, **kwargs):
        values = self.v_proj(hidden_states).transpose(1, 2)
        windows = windows_within(hidden_states.shape[1], self.most)
        weights = self.scores(hidden_states)[..., : len(windows)].softmax(-1)
        mixed = torch.zeros_like(hidden_states)
        for index, window in enumerate(windows):
            mean = F.avg_pool1d(F.pad(values, (window - 1, 0)), window, stride=1)
            mixed = mixed + weights[..., index, None] * mean.transpose(1, 2)
        return self.o_proj(mixed), None, None
