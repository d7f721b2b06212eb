"""PhaseCodedSuccessorDelta without its memory: bilinear path and tapped identity are left."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated, ShortConvolution


class CausalTaps(nn.Module):
    """Depthwise causal filter y_t = sum_j c_j * x_{t-j}; weight is [taps, channels], the first for the token itself."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        length = x.shape[1]
        weight = self.weight.to(x.dtype)
        y = x * weight[0]
        for j in range(1, weight.shape[0]):
            y = y + F.pad(x, (0, 0, j, 0))[:, :length] * weight[j]
        return y


def tap_start(taps, size, own, spread):
    weight = torch.randn(taps, size) * spread
    weight[0] = own
    return weight


class DeltaNet(nn.Module):
    """Successors of phase-coded n-grams in a gated delta memory; a bilinear path and a tapped identity beside it."""

    def __init__(self, hidden_size=1024, num_heads=4, conv_size=4, norm_eps=1e-5, layer_idx=None, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.layer_idx = layer_idx
        self.norm_eps = norm_eps
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.g_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate_taps = CausalTaps(tap_start(conv_size, hidden_size, own=1.0, spread=0.5))
        self.near_taps = CausalTaps(tap_start(conv_size, hidden_size, own=0.5, spread=0.1))
        self.l_norm = FusedRMSNormGated(self.head_dim, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        mask = None if attention_mask is None else attention_mask[:, -hidden_states.shape[1] :]
        heads = self.num_heads
        value = self.v_proj(hidden_states)
        kind = value.dtype
        gate = self.g_proj(hidden_states)
        near_gate = rearrange(self.gate_taps(gate), "b l (h d) -> b l h d", h=heads)
        local, _ = self.v_conv(value, mask=mask)
        local = self.l_norm(rearrange(local, "b l (h d) -> b l h d", h=heads), near_gate)
        y = rearrange(local.to(kind), "b l h d -> b l (h d)")
        y = self.o_proj(y)
        y = y + self.near_taps(hidden_states).to(y.dtype)
        return y, None, past_key_values
