"""Gated DeltaNet: the delta rule in a memory that can also forget, with a gated output.

Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule", arXiv:2412.06464.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated, ShortConvolution
from fla.modules.l2norm import l2_norm
from fla.ops.gated_delta_rule import chunk_gated_delta_rule


class GatedDeltaNet(nn.Module):
    """S_t = a_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T with a decay a_t per head and token."""

    def __init__(self, hidden_size=1024, num_heads=4, conv_size=4, norm_eps=1e-5, layer_idx=None, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.layer_idx = layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.a_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.g_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.q_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.k_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.v_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        # Decay rates and time steps as in Mamba2: rates from 1 to 16, steps from 0.001 to 0.1 on a log scale.
        self.A_log = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, num_heads)))
        step = torch.exp(torch.linspace(math.log(0.001), math.log(0.1), num_heads))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.o_norm = FusedRMSNormGated(self.head_dim, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        mask = None if attention_mask is None else attention_mask[:, -hidden_states.shape[1] :]
        last = self._last_state(past_key_values)
        conv_q, conv_k, conv_v = last["conv_state"] if last is not None else (None, None, None)
        q, conv_q = self.q_conv(self.q_proj(hidden_states), mask=mask, cache=conv_q, output_final_state=use_cache)
        k, conv_k = self.k_conv(self.k_proj(hidden_states), mask=mask, cache=conv_k, output_final_state=use_cache)
        v, conv_v = self.v_conv(self.v_proj(hidden_states), mask=mask, cache=conv_v, output_final_state=use_cache)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v))
        beta = torch.sigmoid(self.b_proj(hidden_states))
        g = -self.A_log.float().exp() * F.softplus(self.a_proj(hidden_states).float() + self.dt_bias)
        if mask is not None:
            beta = beta * mask.unsqueeze(-1)
            g = g * mask.unsqueeze(-1)
        o, state = chunk_gated_delta_rule(
            l2_norm(q),
            l2_norm(k),
            v,
            g,
            beta.to(v.dtype),
            initial_state=last["recurrent_state"] if last is not None else None,
            output_final_state=use_cache,
        )
        if past_key_values is not None and use_cache:
            past_key_values.update(
                recurrent_state=state,
                conv_state=(conv_q, conv_k, conv_v),
                layer_idx=self.layer_idx or 0,
                offset=hidden_states.shape[1],
            )
        gate = rearrange(self.g_proj(hidden_states), "b l (h d) -> b l h d", h=self.num_heads)
        o = self.o_proj(rearrange(self.o_norm(o, gate), "b l h d -> b l (h d)"))
        return o, None, past_key_values

    def _last_state(self, past_key_values):
        layer = self.layer_idx or 0
        if past_key_values is None or len(past_key_values) <= layer:
            return None
        return past_key_values[layer]
