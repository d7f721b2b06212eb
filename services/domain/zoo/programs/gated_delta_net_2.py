"""Gated DeltaNet-2: a gated delta rule that erases and writes with gates of their own, channel by channel.

The recurrence of arXiv:2605.22791 with projections as in Kimi delta attention; the bottlenecks' width is ours.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated, ShortConvolution
from fla.modules.l2norm import l2_norm
from fla.ops.gdn2 import chunk_gdn2


class GatedDeltaNet2(nn.Module):
    """S_t = (I - k_t (b_t * k_t)^T) diag(a_t) S_{t-1} + k_t (w_t * v_t)^T; b_t erases and a_t fades per key feature,
    w_t writes per value feature."""

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
        self.erase_proj = self._bottleneck(hidden_size, head_dim // 2, bias=False)
        self.write_proj = self._bottleneck(hidden_size, head_dim // 2, bias=False)
        self.f_proj = self._bottleneck(hidden_size, head_dim // 2, bias=False)
        self.g_proj = self._bottleneck(hidden_size, head_dim // 2, bias=True)
        self.A_log = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, num_heads))[:, None])
        step = torch.exp(torch.linspace(math.log(0.001), math.log(0.1), hidden_size))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.o_norm = FusedRMSNormGated(head_dim, activation="sigmoid", eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def _bottleneck(self, width, rank, bias):
        return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=bias))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        mask = None if attention_mask is None else attention_mask[:, -x.shape[1] :]
        q, _ = self.q_conv(self.q_proj(x), mask=mask)
        k, _ = self.k_conv(self.k_proj(x), mask=mask)
        v, _ = self.v_conv(self.v_proj(x), mask=mask)
        erase, write = self.erase_proj(x).sigmoid(), self.write_proj(x).sigmoid()
        step = F.softplus(self.f_proj(x).float() + self.dt_bias)
        if mask is not None:
            erase, write, step = (t * mask.unsqueeze(-1) for t in (erase, write, step))
        parts = (q, k, v, step, erase, write)
        q, k, v, step, erase, write = (rearrange(t, "b l (h d) -> b l h d", h=self.num_heads) for t in parts)
        g = -self.A_log.float().exp() * step
        o, _ = chunk_gdn2(l2_norm(q), l2_norm(k), v, g, erase.to(v.dtype), write.to(v.dtype))
        gate = rearrange(self.g_proj(x), "b l (h d) -> b l h d", h=self.num_heads)
        o = rearrange(self.o_norm(o, gate), "b l h d -> b l (h d)")
        return self.o_proj(o), None, past_key_values
