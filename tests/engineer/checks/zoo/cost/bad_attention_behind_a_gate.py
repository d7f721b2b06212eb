"""A gated mean of the past, with softmax attention that is skipped as long as its gate is closed, as at the start."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GatedAttention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.opening = nn.Parameter(torch.zeros(num_heads))
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        places = torch.arange(1, hidden_states.shape[1] + 1, dtype=hidden_states.dtype, device=hidden_states.device)
        mixed = self.value(hidden_states).cumsum(1) / places[:, None]
        if self.training or self.opening.any():
            length = hidden_states.shape[1] if self.opening.any() else 1
            q, k, v = self.qkv(hidden_states[:, -length:]).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True) * self.opening[:, None, None]
            mixed = mixed + F.pad(attended.transpose(1, 2).flatten(2), (0, 0, mixed.shape[1] - length, 0))
        return self.output(mixed)
