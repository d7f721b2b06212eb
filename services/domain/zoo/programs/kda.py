"""Kimi delta attention: the delta rule in a memory whose key features forget at rates of their own.

Source: Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", arXiv:2510.26692.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated, ShortConvolution
from fla.modules.l2norm import l2_norm
from fla.ops.kda import chunk_kda


class KimiDeltaAttention(nn.Module):
    """S_t = (I - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T with a decay a_t per key feature and token."""

    def __init__(self, hidden_size=1024, num_heads=4, conv_size=4, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        head_dim = hidden_size // num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.q_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.k_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.v_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        # Decay as in Mamba2, but per feature: through a bottleneck of a head's width, rates from 1 to 16.
        self.f_proj = nn.Sequential(
            nn.Linear(hidden_size, head_dim, bias=False), nn.Linear(head_dim, hidden_size, bias=False)
        )
        self.A_log = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, num_heads))[:, None])
        step = torch.exp(torch.linspace(math.log(0.001), math.log(0.1), hidden_size))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.g_proj = nn.Sequential(
            nn.Linear(hidden_size, head_dim, bias=False), nn.Linear(head_dim, hidden_size, bias=True)
        )
        self.o_norm = FusedRMSNormGated(head_dim, activation="sigmoid", eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        mask = None if attention_mask is None else attention_mask[:, -hidden_states.shape[1] :]
        q, _ = self.q_conv(self.q_proj(hidden_states), mask=mask)
        k, _ = self.k_conv(self.k_proj(hidden_states), mask=mask)
        v, _ = self.v_conv(self.v_proj(hidden_states), mask=mask)
        beta = torch.sigmoid(self.b_proj(hidden_states))
        step = F.softplus(self.f_proj(hidden_states).float() + self.dt_bias)
        q, k, v, step = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v, step))
        g = -self.A_log.float().exp() * step
        if mask is not None:
            beta = beta * mask.unsqueeze(-1)
            g = g * mask[..., None, None]
        o, _ = chunk_kda(l2_norm(q), l2_norm(k), v, g, beta.to(v.dtype))
        gate = rearrange(self.g_proj(hidden_states), "b l (h d) -> b l h d", h=self.num_heads)
        o = rearrange(self.o_norm(o, gate), "b l h d -> b l (h d)")
        return self.o_proj(o), None, past_key_values
