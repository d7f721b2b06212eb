"""PhaseCodedSuccessorDelta without the residual of the last inputs: memory and bilinear path are left."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import FusedRMSNormGated, ShortConvolution
from fla.ops.gated_delta_rule import chunk_gated_delta_rule


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
        self.phase_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        # Taps begin so that another token at any lag of the n-gram turns the angles by about two radians.
        orders = [1, 2, 3, 6]
        start = torch.zeros(6, num_heads, self.head_dim)
        for head in range(num_heads):
            start[: orders[head % 4], head] = 2.5
        self.phase_taps = CausalTaps(start.reshape(6, hidden_size) * (1.0 + 0.1 * torch.randn(6, hidden_size)))
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.g_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.a_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads)
        nn.init.constant_(self.b_proj.bias, 1.0)
        step = torch.exp(torch.linspace(math.log(0.01), math.log(0.002), num_heads))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.A_log = nn.Parameter(torch.zeros(num_heads))
        self.read_gain = nn.Parameter(torch.full((num_heads, self.head_dim), 1.5))
        self.gate_taps = CausalTaps(tap_start(conv_size, hidden_size, own=1.0, spread=0.5))
        self.l_norm = FusedRMSNormGated(self.head_dim, eps=norm_eps)
        self.o_proj = nn.Linear(2 * hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        mask = None if attention_mask is None else attention_mask[:, -hidden_states.shape[1] :]
        heads = self.num_heads
        # Addresses: the n-gram that ends here is asked for, the one that ended a token ago is written under.
        phase = self.phase_taps(self.phase_proj(hidden_states).float())
        phase = rearrange(phase, "b l (h d) -> b l h d", h=heads)
        code = torch.cat([phase.cos(), phase.sin()], dim=-1) * self.head_dim**-0.5
        key = F.pad(code, (0, 0, 0, 0, 1, 0))[:, :-1]
        # Contents: the token itself, not its neighbourhood, at unit scale.
        value = self.v_proj(hidden_states)
        content = rearrange(value, "b l (h d) -> b l h d", h=heads).float()
        content = content * torch.rsqrt(content.square().mean(-1, keepdim=True) + self.norm_eps)
        beta = torch.sigmoid(self.b_proj(hidden_states).float())
        g = -self.A_log.float().exp() * F.softplus(self.a_proj(hidden_states).float() + self.dt_bias.float())
        if mask is not None:
            beta = beta * mask.unsqueeze(-1)
            g = g * mask.unsqueeze(-1)
        kind = value.dtype
        read, _ = chunk_gated_delta_rule(code.to(kind), key.to(kind), content.to(kind), g, beta.to(kind))
        gate = self.g_proj(hidden_states)
        near_gate = rearrange(self.gate_taps(gate), "b l (h d) -> b l h d", h=heads)
        gate = rearrange(gate, "b l (h d) -> b l h d", h=heads)
        read = read * self.read_gain.to(read.dtype) * F.silu(gate).to(read.dtype)
        local, _ = self.v_conv(value, mask=mask)
        local = self.l_norm(rearrange(local, "b l (h d) -> b l h d", h=heads), near_gate)
        y = torch.cat([rearrange(x.to(kind), "b l h d -> b l (h d)") for x in (read, local)], dim=-1)
        y = self.o_proj(y)
        return y, None, past_key_values
