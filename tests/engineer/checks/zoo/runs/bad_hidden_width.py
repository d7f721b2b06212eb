from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


def l2norm(x):
    return x / torch.sqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


@torch.compile
def delta_rule_chunkwise(q, k, v, beta, chunk_size=32):
    """q, k, v: [batch, heads, length, dim]; beta: [batch, heads, length]."""
    length = q.shape[2]
    pad = (chunk_size - length % chunk_size) % chunk_size
    if pad:
        q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
        beta = F.pad(beta, (0, pad))
    v = v * beta[..., None]
    k_beta = k * beta[..., None]
    q, k, v, k_beta = (rearrange(t, "b h (n c) d -> b h n c d", c=chunk_size) for t in (q, k, v, k_beta))
    ones = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device)
    inverse = -(k_beta @ k.transpose(-1, -2)).masked_fill(ones.triu(0), 0)
    for i in range(1, chunk_size):
        inverse[..., i, :i] += (inverse[..., i, :, None].clone() * inverse[..., :, :i].clone()).sum(-2)
    inverse = inverse + torch.eye(chunk_size, dtype=inverse.dtype, device=q.device)
    values, weights = inverse @ v, inverse @ k_beta
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outputs = []
    for i in range(q.shape[2]):
        local = (q[:, :, i] @ k[:, :, i].transpose(-1, -2)).masked_fill(ones.triu(1), 0)
        fresh = values[:, :, i] - weights[:, :, i] @ state
        outputs.append(q[:, :, i] @ state + local @ fresh)
        state = state + k[:, :, i].transpose(-1, -2) @ fresh
    return torch.cat(outputs, dim=2)[:, :, :length]


class DeltaNet(nn.Module):
    """DeltaNet with a bottleneck whose way back up is missing."""

    def __init__(self, hidden_size=1024, num_heads=4, layer_idx=None, **kwargs):
        super().__init__()
        self.hidden_size, self.num_heads, self.layer_idx = hidden_size, num_heads, layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.bottleneck = nn.Linear(hidden_size, hidden_size // 2)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        past_key_values=None,
        use_cache=False,
        output_attentions=False,
        **kwargs,
    ):
        q, k, v = (
            rearrange(proj(hidden_states), "b l (h d) -> b h l d", h=self.num_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = l2norm(F.silu(q)), l2norm(F.silu(k))
        beta = self.b_proj(hidden_states).sigmoid().transpose(1, 2)
        mixed = delta_rule_chunkwise(q, k, F.silu(v), beta)
        mixed = rearrange(mixed, "b h l d -> b l (h d)")
        return F.silu(self.bottleneck(self.o_proj(mixed))), None, past_key_values
