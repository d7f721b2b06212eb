from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


def causal_linear_attention(q, k, v, chunk_size=64):
    """q, k: positive features [batch, heads, length, dim]; normalised, in chunks."""
    length = q.shape[2]
    pad = (chunk_size - length % chunk_size) % chunk_size
    q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    norm = q.new_zeros(*q.shape[:2], q.shape[-1])
    outputs = []
    for start in range(0, length + pad, chunk_size):
        qc, kc, vc = (t[:, :, start : start + chunk_size] for t in (q, k, v))
        scores = (qc @ kc.transpose(-1, -2)).tril()
        total = scores.sum(-1) + (qc @ norm[..., None]).squeeze(-1)
        outputs.append((scores @ vc + qc @ state) / (total + 1e-6)[..., None])
        state = state + kc.transpose(-1, -2) @ vc
        norm = norm + kc.sum(2)
    return torch.cat(outputs, dim=2)[:, :, :length]


class DeltaNet(nn.Module):
    """Linear attention which computes its projections in bfloat16 whatever it is given."""

    def __init__(self, hidden_size=1024, num_heads=4, layer_idx=None, **kwargs):
        super().__init__()
        self.hidden_size, self.num_heads, self.layer_idx = hidden_size, num_heads, layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        past_key_values=None,
        use_cache=False,
        output_attentions=False,
        **kwargs,
    ):
        hidden_states = hidden_states.to(torch.bfloat16)
        q, k, v = (
            rearrange(proj(hidden_states), "b l (h d) -> b h l d", h=self.num_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = causal_linear_attention(F.elu(q.float()) + 1, F.elu(k.float()) + 1, v.float())
        mixed = rearrange(mixed, "b h l d -> b l (h d)")
        return self.o_proj(mixed), None, past_key_values
