"""RetNet: attention with fixed exponential decays and rotary positions, gated at the output.

Source: Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models", arXiv:2307.08621.
"""

import torch.nn as nn
from einops import rearrange
from fla.modules import FusedRMSNormGated, RotaryEmbedding
from fla.ops.retention import chunk_retention


class Retention(nn.Module):
    """S_t = gamma_h S_{t-1} + k_t v_t^T with gamma_h = 1 - 2^(-5-h)."""

    def __init__(self, hidden_size=1024, num_heads=4, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.g_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.rotary = RotaryEmbedding(hidden_size // num_heads)
        self.o_norm = FusedRMSNormGated(hidden_size // num_heads, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        if attention_mask is not None:
            k = k * attention_mask.unsqueeze(-1)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v))
        q, k = self.rotary(q, k)
        o, _ = chunk_retention(q, k, v)
        gate = rearrange(self.g_proj(hidden_states), "b l (h d) -> b l h d", h=self.num_heads)
        o = rearrange(self.o_norm(o, gate), "b l h d -> b l (h d)")
        return self.o_proj(o), None, past_key_values
