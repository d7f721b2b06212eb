"""Linear attention that treats all chunks at once while it is trained, and one after the other else."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChunkedOrRecurrent(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        heads = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        q, k = F.softmax(q, dim=-1), F.softmax(k, dim=-1)
        mixed = self.parallel(q, k, v) if self.training else self.recurrent(q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def parallel(self, q: Tensor, k: Tensor, v: Tensor, chunk: int = 32) -> Tensor:
        length = q.shape[2]
        q, k, v = (F.pad(x, (0, 0, 0, -length % chunk)).unflatten(2, (-1, chunk)) for x in (q, k, v))
        states = (k.transpose(-1, -2) @ v).cumsum(2)
        before = F.pad(states, (0, 0, 0, 0, 1, 0))[:, :, :-1]
        return (torch.tril(q @ k.transpose(-1, -2)) @ v + q @ before).flatten(2, 3)[:, :, :length]

    def recurrent(self, q: Tensor, k: Tensor, v: Tensor, chunk: int = 32) -> Tensor:
        state, parts = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
        for qc, kc, vc in zip(*(x.split(chunk, dim=2) for x in (q, k, v)), strict=True):
            parts.append(torch.tril(qc @ kc.transpose(-1, -2)) @ vc + qc @ state)
            state = state + kc.transpose(-1, -2) @ vc
        return torch.cat(parts, dim=2)
