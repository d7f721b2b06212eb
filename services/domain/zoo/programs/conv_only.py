"""Convolution only: what a mixer without any memory beyond a window of 32 tokens can do."""

import torch.nn as nn
import torch.nn.functional as F
from fla.modules import RMSNorm, ShortConvolution


class GatedConvolution(nn.Module):
    """Two causal filters per channel, of 4 and of 32 tokens, gated by the token."""

    def __init__(self, hidden_size=1024, conv_size=4, long_size=32, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.value_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.short = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.long = ShortConvolution(hidden_size, long_size, activation=None)
        self.o_norm = RMSNorm(hidden_size, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        value, _ = self.short(self.value_proj(hidden_states), mask=attention_mask)
        mixed, _ = self.long(value * self.key_proj(hidden_states), mask=attention_mask)
        o = self.o_norm(value + mixed) * F.silu(self.gate_proj(hidden_states))
        return self.o_proj(o), None, past_key_values
