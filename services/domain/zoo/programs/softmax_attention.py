"""Softmax attention with rotary positions: the upper reference, quadratic in the length and exempt from that check.

Source: Vaswani et al., arXiv:1706.03762; positions from Su et al., arXiv:2104.09864.
"""

import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import RotaryEmbedding


class SoftmaxAttention(nn.Module):
    """o_t = sum over i <= t of softmax(q_t k_i / sqrt(d)) v_i."""

    def __init__(self, hidden_size=1024, num_heads=4, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.rotary = RotaryEmbedding(hidden_size // num_heads)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v))
        q, k = self.rotary(q, k)
        q, k, v = (rearrange(x, "b l h d -> b h l d") for x in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(rearrange(o, "b h l d -> b l (h d)")), None, past_key_values
