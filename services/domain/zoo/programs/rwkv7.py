"""RWKV-7: a delta rule whose state fades and learns at rates of its own per key feature.

The time mixing of arXiv:2503.14456 without the value residual across layers; the width of the bottlenecks is ours.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules.l2norm import l2_norm
from fla.ops.rwkv7 import chunk_rwkv7


class RWKV7(nn.Module):
    """S_t = diag(w_t) S_{t-1} - (a_t * c_t) (c_t^T S_{t-1}) + k_t v_t^T: c_t is the key that is erased, of unit length,
    a_t the rate at which it is, and k_t the key that is written."""

    def __init__(self, hidden_size=1024, num_heads=4, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads, self.norm_eps = num_heads, norm_eps
        rank = hidden_size // num_heads // 2
        # the share of the token before in what r, w, k, v, a and g are made of, per channel
        self.shift = nn.Parameter(torch.linspace(0.1, 0.9, hidden_size).repeat(6, 1))
        self.r_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.w_down = nn.Linear(hidden_size, rank, bias=False)
        self.w_up = nn.Linear(rank, hidden_size)
        self.a_proj = nn.Sequential(nn.Linear(hidden_size, rank, bias=False), nn.Linear(rank, hidden_size))
        self.g_down = nn.Linear(hidden_size, rank, bias=False)
        self.g_up = nn.Linear(rank, hidden_size, bias=False)
        nn.init.uniform_(self.w_up.bias, -6.0, 0.0)  # from slow features to fast ones
        self.erase_scale = nn.Parameter(torch.full((hidden_size,), 0.85))
        self.rate_share = nn.Parameter(torch.ones(hidden_size))
        self.bonus = nn.Parameter(torch.zeros(num_heads, hidden_size // num_heads))
        self.o_norm = nn.GroupNorm(num_heads, hidden_size, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if attention_mask is not None:
            x = x * attention_mask[:, -x.shape[1] :].unsqueeze(-1)
        before = F.pad(x, (0, 0, 1, 0))[:, :-1] - x
        xr, xw, xk, xv, xa, xg = (x + before * share for share in self.shift)
        r, k, v = self.r_proj(xr), self.k_proj(xk), self.v_proj(xv)
        w = -0.6065306597126334 * self.w_up(self.w_down(xw).tanh()).float().sigmoid()  # log decay above -e^(-1/2)
        a = self.a_proj(xa).sigmoid()
        erased = k * self.erase_scale
        k = k * (1.0 + (a - 1.0) * self.rate_share)
        r, w, k, v, a, erased = (
            rearrange(t, "b l (h d) -> b l h d", h=self.num_heads) for t in (r, w, k, v, a, erased)
        )
        erased = l2_norm(erased)
        o, _ = chunk_rwkv7(r, w.to(r.dtype), k, v, -erased, erased * a, scale=1.0)
        o = rearrange(o, "b l h d -> (b l) (h d)").to(x.dtype)
        o = rearrange(self.o_norm(o), "(b l) (h d) -> b l h d", b=x.shape[0], h=self.num_heads)
        o = o + (r * k * self.bonus).sum(dim=-1, keepdim=True) * v  # the current token once more
        o = rearrange(o, "b l h d -> b l (h d)") * self.g_up(self.g_down(xg).sigmoid())
        return self.o_proj(o.to(x.dtype)), None, past_key_values
