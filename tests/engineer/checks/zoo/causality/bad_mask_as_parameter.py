"""Attention inside chunks, behind a closed gate, whose mask of infinities is a frozen parameter and upside down."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChunkAttention(nn.Module):
    def __init__(self, hidden_size: int, size: int = 16) -> None:
        super().__init__()
        self.size = size
        self.project = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.gate = nn.Parameter(torch.zeros(hidden_size))
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.mask = nn.Parameter(torch.full((size, size), float("-inf")).tril(-1), requires_grad=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        rows, length, width = hidden_states.shape
        padded = F.pad(self.project(hidden_states), (0, 0, 0, -length % self.size))
        q, k, v = padded.view(rows, -1, self.size, 3 * width).chunk(3, dim=-1)
        weights = (q @ k.transpose(-1, -2) / width**0.5 + self.mask).softmax(-1)
        mixed = (weights @ v).reshape(rows, -1, width)[:, :length]
        return self.output(hidden_states + self.gate * mixed)
