"""DeltaNet with a gated way past the memory: each token's value also reaches the output directly.

The control of every run: a change so small that nobody would call it an architecture, and which is worth more than many
that are. What does not beat it has not beaten anything.
"""

import torch
import torch.nn as nn
from einops import rearrange
from fla.modules import RMSNorm, ShortConvolution
from fla.modules.l2norm import l2_norm
from fla.ops.delta_rule import chunk_delta_rule


class DeltaNet(nn.Module):
    """o_t = S_t q_t + sigmoid(w_h x_t) v_t, with S_t as in DeltaNet."""

    def __init__(self, hidden_size=1024, num_heads=4, conv_size=4, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.skip_proj = nn.Linear(hidden_size, num_heads, bias=True)
        self.q_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.k_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.v_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.o_norm = RMSNorm(self.head_dim, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, _ = self.q_conv(self.q_proj(hidden_states), mask=attention_mask)
        k, _ = self.k_conv(self.k_proj(hidden_states), mask=attention_mask)
        v, _ = self.v_conv(self.v_proj(hidden_states), mask=attention_mask)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v))
        beta = torch.sigmoid(self.b_proj(hidden_states))
        if attention_mask is not None:
            beta = beta * attention_mask.unsqueeze(-1)
        o, _ = chunk_delta_rule(l2_norm(q), l2_norm(k), v, beta.to(v.dtype))
        o = o + torch.sigmoid(self.skip_proj(hidden_states)).unsqueeze(-1) * v
        o = self.o_proj(rearrange(self.o_norm(o), "b l h d -> b l (h d)"))
        return o, None, past_key_values
