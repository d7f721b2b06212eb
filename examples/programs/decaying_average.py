"""Each head keeps a decaying average of its values, whose rate the token chooses, and gates what it reads.

An example of a user's program: `asi-arch check` it, then give it to a run with `--baselines` or `--seed-program`.
"""

import torch
from einops import rearrange
from fla.ops.simple_gla import chunk_simple_gla
from torch import nn


class DecayingAverage(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projection = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.decay = nn.Linear(hidden_size, num_heads)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[batch, length, width] → the same shape."""
        q, k, v, gate = self.projection(hidden_states).chunk(4, dim=-1)
        q, k, v = (rearrange(x, "b t (h d) -> b t h d", h=self.num_heads) for x in (q, k, v))
        decay = torch.nn.functional.logsigmoid(self.decay(hidden_states).float()) / 8
        read, _ = chunk_simple_gla(torch.softmax(q, -1), torch.softmax(k, -1), v, decay)
        return self.output(rearrange(read, "b t h d -> b t (h d)") * torch.sigmoid(gate))
