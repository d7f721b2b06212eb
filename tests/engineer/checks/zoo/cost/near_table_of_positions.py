"""Rotations from a table of 2,048 positions: longer inputs are an error, and no cost."""

import torch
from torch import Tensor, nn


class Rotated(nn.Module):
    def __init__(self, hidden_size: int, max_position: int = 2048) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(max_position), 10000.0 ** -torch.linspace(0, 1, hidden_size // 2))
        self.register_buffer("table", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        self.projection = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        length = hidden_states.shape[1]
        cos, sin = self.table[:, :length]
        x, gate = self.projection(hidden_states).chunk(2, dim=-1)
        a, b = x.chunk(2, dim=-1)
        rotated = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
        mean = rotated.cumsum(1) / torch.arange(1, length + 1, device=x.device)[:, None]
        return self.output(mean * torch.sigmoid(gate))
