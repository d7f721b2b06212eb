"""Linear attention on random features, which a generator of their own draws from a fixed seed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomFeatures(nn.Module):
    def __init__(self, hidden_size: int, features: int = 32) -> None:
        super().__init__()
        drawn = torch.randn(hidden_size, features, generator=torch.Generator().manual_seed(0))
        self.register_buffer("features", drawn / hidden_size**0.5)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key.weight.data = self.query.weight.data.clone()
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, chunk: int = 32) -> Tensor:
        query, key = (F.softplus(project(hidden_states) @ self.features) for project in (self.query, self.key))
        state, parts = hidden_states.new_zeros(hidden_states.shape[0], key.shape[-1], hidden_states.shape[-1]), []
        for q, k, v in zip(*(x.split(chunk, dim=1) for x in (query, key, hidden_states)), strict=True):
            parts.append(torch.tril(q @ k.transpose(1, 2)) @ v + q @ state)
            state = state + k.transpose(1, 2) @ v
        return self.output(torch.cat(parts, dim=1) * hidden_states.shape[-1] ** -0.5)
