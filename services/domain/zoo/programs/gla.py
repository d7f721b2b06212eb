"""Gated linear attention: every key feature of the memory forgets at a rate of its own, chosen by the token.

Source: Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv:2312.06635.
"""

import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated
from fla.ops.gla import chunk_gla


class GatedLinearAttention(nn.Module):
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T with a_t = sigmoid(low-rank(x_t))^(1/16); keys have half the width of values."""

    def __init__(self, hidden_size=1024, num_heads=4, rank=16, temperature=16.0, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.temperature = temperature
        keys = hidden_size // 2
        self.q_proj = nn.Linear(hidden_size, keys, bias=False)
        self.k_proj = nn.Linear(hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.g_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.decay_proj = nn.Sequential(nn.Linear(hidden_size, rank, bias=False), nn.Linear(rank, keys, bias=True))
        self.o_norm = FusedRMSNormGated(hidden_size // num_heads, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        g = F.logsigmoid(self.decay_proj(hidden_states).float()) / self.temperature
        if attention_mask is not None:
            k = k * attention_mask.unsqueeze(-1)
            g = g * attention_mask.unsqueeze(-1)
        q, k, v, g = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v, g))
        o, _ = chunk_gla(q, k, v, g)
        gate = rearrange(self.g_proj(hidden_states), "b l (h d) -> b l h d", h=self.num_heads)
        o = rearrange(self.o_norm(o, gate), "b l h d -> b l (h d)")
        return self.o_proj(o), None, past_key_values
