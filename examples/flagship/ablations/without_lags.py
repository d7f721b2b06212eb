"""DenseLagDeltaNet without the matrices for the last two inputs: the token's copy and the memory are left."""

import torch
import torch.nn as nn
from einops import rearrange
from fla.modules import RMSNorm, ShortConvolution
from fla.modules.l2norm import l2_norm
from fla.ops.delta_rule import chunk_delta_rule


class DeltaNet(nn.Module):
    """y_t = c * x_t + W_o norm(S_t q_t), with S_t as in DeltaNet."""

    def __init__(self, hidden_size=1024, num_heads=4, conv_size=4, norm_eps=1e-5, layer_idx=None, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.layer_idx = layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.q_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.k_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.v_conv = ShortConvolution(hidden_size, conv_size, activation="silu")
        self.o_norm = RMSNorm(self.head_dim, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        # the token itself by a weight per channel
        self.present = nn.Parameter(torch.ones(hidden_size))
        # in unit-variance inputs: the token stands at 1, the memory at about 0.25
        nn.init.normal_(self.o_proj.weight, std=0.25 * hidden_size**-0.5)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if attention_mask is not None:  # padding is neither written nor read
            x = x * attention_mask[:, -x.shape[1] :, None].to(x.dtype)
        q, _ = self.q_conv(self.q_proj(x))
        k, _ = self.k_conv(self.k_proj(x))
        v, _ = self.v_conv(self.v_proj(x))
        q, k, v = (rearrange(t, "b l (h d) -> b l h d", h=self.num_heads) for t in (q, k, v))
        beta = torch.sigmoid(self.b_proj(x))
        o, _ = chunk_delta_rule(l2_norm(q), l2_norm(k), v, beta.to(v.dtype))
        memory = self.o_proj(rearrange(self.o_norm(o), "b l h d -> b l (h d)"))
        return self.present * x + memory, None, past_key_values
