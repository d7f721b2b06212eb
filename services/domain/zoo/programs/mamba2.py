"""Mamba2-style: a state-space model with one decay per head and token, a convolution before and a gate behind.

Source: Dao and Gu, "Transformers are SSMs", arXiv:2405.21060.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange, repeat
from fla.modules import FusedRMSNormGated, ShortConvolution
from fla.ops.simple_gla import chunk_simple_gla


class Mamba2(nn.Module):
    """h_t = exp(-A dt_t) h_{t-1} + dt_t B_t x_t^T, y_t = C_t h_t + D x_t; B and C are shared by the heads."""

    def __init__(self, hidden_size=1024, num_heads=4, conv_size=4, expand=1.5, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.inner = int(expand * hidden_size) // num_heads * num_heads
        self.head_dim = self.inner // num_heads
        self.state_dim = max(16, hidden_size // num_heads)
        self.in_proj = nn.Linear(hidden_size, self.inner + 2 * self.state_dim, bias=False)
        self.z_proj = nn.Linear(hidden_size, self.inner, bias=False)
        self.dt_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.conv = ShortConvolution(self.inner + 2 * self.state_dim, conv_size, activation="silu")
        self.A_log = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, num_heads)))
        step = torch.exp(torch.linspace(math.log(0.001), math.log(0.1), num_heads))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.D = nn.Parameter(torch.ones(num_heads))
        self.o_norm = FusedRMSNormGated(self.inner, eps=norm_eps)
        self.out_proj = nn.Linear(self.inner, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        mixed, _ = self.conv(self.in_proj(hidden_states), mask=attention_mask)
        x, key, query = mixed.split([self.inner, self.state_dim, self.state_dim], dim=-1)
        x = rearrange(x, "b l (h d) -> b l h d", h=self.num_heads)
        key, query = (repeat(one, "b l n -> b l h n", h=self.num_heads) for one in (key, query))
        dt = F.softplus(self.dt_proj(hidden_states).float() + self.dt_bias)
        if attention_mask is not None:
            dt = dt * attention_mask.unsqueeze(-1)
        g = -self.A_log.float().exp() * dt
        y, _ = chunk_simple_gla(query, key, x * dt.unsqueeze(-1).to(x.dtype), g, scale=1.0)
        y = rearrange(y + self.D[:, None].to(x.dtype) * x, "b l h d -> b l (h d)")
        return self.out_proj(self.o_norm(y, self.z_proj(hidden_states))), None, past_key_values
