"""Plain linear attention: a memory that only adds.

Source: Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236, with the output normalised by RMS instead of by
the sum of weights (Qin et al., arXiv:2210.10340).
"""

import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import RMSNorm
from fla.ops.linear_attn import chunk_linear_attn


class LinearAttention(nn.Module):
    """o_t = (sum over i <= t of v_i phi(k_i)^T) phi(q_t) with phi(x) = elu(x) + 1."""

    def __init__(self, hidden_size=1024, num_heads=4, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_norm = RMSNorm(hidden_size // num_heads, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if attention_mask is not None:
            k = k * attention_mask.unsqueeze(-1)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v))
        o, _ = chunk_linear_attn(q, k, v, normalize=False)
        o = rearrange(self.o_norm(o), "b l h d -> b l (h d)")
        return self.o_proj(o), None, past_key_values
