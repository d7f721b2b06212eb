from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class DeltaNet(nn.Module):
    """Softmax attention over the own and the previous block of 64: linear in the length."""

    def __init__(self, hidden_size=1024, num_heads=4, layer_idx=None, **kwargs):
        super().__init__()
        self.hidden_size, self.num_heads, self.layer_idx = hidden_size, num_heads, layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        past_key_values=None,
        use_cache=False,
        output_attentions=False,
        **kwargs,
    ):
        q, k, v = (
            rearrange(proj(hidden_states), "b l (h d) -> b h l d", h=self.num_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        length, block = q.shape[2], 64
        pad = -length % block
        q, k, v = (rearrange(F.pad(t, (0, 0, 0, pad)), "b h (n c) d -> b h n c d", c=block) for t in (q, k, v))
        k, v = (torch.cat([F.pad(t, (0, 0, 0, 0, 1, 0))[:, :, :-1], t], dim=3) for t in (k, v))
        rows = torch.arange(block, device=q.device)[:, None] + block
        columns = torch.arange(2 * block, device=q.device)[None, :]
        allowed = (columns <= rows) & (
            (columns >= block) | (torch.arange(q.shape[2], device=q.device) > 0)[:, None, None]
        )
        scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~allowed, float("-inf"))
        mixed = rearrange(scores.softmax(-1) @ v, "b h n c d -> b h (n c) d")[:, :, :length]
        mixed = rearrange(mixed, "b h l d -> b l (h d)")
        return self.o_proj(mixed), None, past_key_values
