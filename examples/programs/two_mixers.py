"""A convolution and a decaying average take turns, in blocks that mix and feed forward side by side.

For scales that say `evolves = "model"`: LAYERS names the mixer of each layer, repeated, and BLOCK the layout.
"""

import torch
from einops import rearrange
from fla.modules import ShortConvolution
from fla.ops.simple_gla import chunk_simple_gla
from torch import nn

LAYERS = ("Nearby", "Average")
BLOCK = "parallel"


class Nearby(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.convolution = ShortConvolution(hidden_size, kernel_size=4, activation="silu")
        self.gate = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, length, width] → the same shape."""
        near, _ = self.convolution(hidden_states)
        return self.output(near * torch.sigmoid(self.gate(hidden_states)))


class Average(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projection = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.decay = nn.Linear(hidden_size, num_heads)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, length, width] → the same shape."""
        parts = self.projection(hidden_states).chunk(3, dim=-1)
        q, k, v = (rearrange(x, "b t (h d) -> b t h d", h=self.num_heads) for x in parts)
        decay = torch.nn.functional.logsigmoid(self.decay(hidden_states).float()) / 8
        read, _ = chunk_simple_gla(torch.softmax(q, -1), torch.softmax(k, -1), v, decay)
        return self.output(rearrange(read, "b t h d -> b t (h d)"))
