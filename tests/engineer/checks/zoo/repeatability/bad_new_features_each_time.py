"""Linear attention on random features that are drawn anew in each forward, the same for all rows and positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomFeatures(nn.Module):
    def __init__(self, hidden_size: int, features: int = 32) -> None:
        super().__init__()
        self.features = features
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, chunk: int = 32) -> Tensor:
        width = hidden_states.shape[-1]
        drawn = torch.randn(width, self.features, device=hidden_states.device, dtype=hidden_states.dtype) / width**0.5
        query, key = (F.softplus(project(hidden_states) @ drawn) for project in (self.query, self.key))
        state, parts = hidden_states.new_zeros(hidden_states.shape[0], self.features, width), []
        for q, k, v in zip(*(x.split(chunk, dim=1) for x in (query, key, hidden_states)), strict=True):
            parts.append(torch.tril(q @ k.transpose(1, 2)) @ v + q @ state)
            state = state + k.transpose(1, 2) @ v
        return self.output(torch.cat(parts, dim=1) * width**-0.5)
