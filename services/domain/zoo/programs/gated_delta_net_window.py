"""Gated DeltaNet beside softmax over a sliding window, in the same layer: the hybrid that candidates have to beat.

Both read the same convolved queries, keys and values; a gate per head and token mixes them. Sources: Yang et al.,
arXiv:2412.06464, for the memory; Arora et al., "Based", arXiv:2402.18668, for joining a memory with a short window.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated, ShortConvolution
from fla.modules.l2norm import l2_norm
from fla.ops.gated_delta_rule import chunk_gated_delta_rule


def window_attention(q, k, v, window):
    """[b, h, l, d]: each query sees itself and the window - 1 tokens before it; linear in the length."""
    length = q.shape[2]
    tail = -length % window
    q, k, v = (F.pad(x, (0, 0, 0, tail)) for x in (q, k, v))
    q = rearrange(q, "b h (n w) d -> b h n w d", w=window)
    keys, values = (F.pad(x, (0, 0, window, 0)).unfold(2, 2 * window, window) for x in (k, v))
    place = torch.arange(window, device=q.device)[:, None] + window
    other = torch.arange(2 * window, device=q.device)
    seen = (other <= place) & (other > place - window)
    chunk = torch.arange(q.shape[2], device=q.device)[:, None, None]
    seen = seen & ((chunk > 0) | (other >= window))  # nothing lies before the first chunk
    logits = torch.einsum("bhnwd,bhndj->bhnwj", q, keys)
    weights = logits.float().masked_fill(~seen, float("-inf")).softmax(-1).to(v.dtype)
    o = torch.einsum("bhnwj,bhndj->bhnwd", weights, values)
    return rearrange(o, "b h n w d -> b h (n w) d")[:, :, :length]


class GatedDeltaNetWindow(nn.Module):
    """o_t = m_t S_t q_t + (1 - m_t) window(q, k, v)_t with a mixing gate m_t per head and token."""

    def __init__(self, hidden_size=1024, num_heads=4, conv_size=4, window=64, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.window = window
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.a_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.mix_proj = nn.Linear(hidden_size, num_heads)
        self.g_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.q_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.k_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.v_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.sharpness = nn.Parameter(torch.full((num_heads,), math.log(8.0)))  # of the window's softmax, unit keys
        self.A_log = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, num_heads)))
        step = torch.exp(torch.linspace(math.log(0.001), math.log(0.1), num_heads))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.o_norm = FusedRMSNormGated(self.head_dim, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, _ = self.q_conv(self.q_proj(hidden_states))
        k, _ = self.k_conv(self.k_proj(hidden_states))
        v, _ = self.v_conv(self.v_proj(hidden_states))
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v))
        q, k = l2_norm(q), l2_norm(k)
        beta = torch.sigmoid(self.b_proj(hidden_states)).to(v.dtype)
        g = -self.A_log.float().exp() * F.softplus(self.a_proj(hidden_states).float() + self.dt_bias)
        memory, _ = chunk_gated_delta_rule(q, k, v, g, beta)
        sharp = q * self.sharpness.exp().to(q.dtype)[:, None]
        near = window_attention(*(rearrange(x, "b l h d -> b h l d") for x in (sharp, k, v)), self.window)
        mix = torch.sigmoid(self.mix_proj(hidden_states)).unsqueeze(-1).to(v.dtype)
        o = mix * memory + (1 - mix) * rearrange(near, "b h l d -> b l h d")
        gate = rearrange(self.g_proj(hidden_states), "b l (h d) -> b l h d", h=self.num_heads)
        return self.o_proj(rearrange(self.o_norm(o, gate), "b l h d -> b l (h d)")), None, past_key_values
