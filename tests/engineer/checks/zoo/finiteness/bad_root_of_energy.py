from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


def retention_chunkwise(q, k, v, decay, chunk_size=32):
    """q, k, v: [batch, heads, length, dim]; decay: one number in (0, 1) per head."""
    length = q.shape[2]
    pad = (chunk_size - length % chunk_size) % chunk_size
    q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
    steps = torch.arange(chunk_size, device=q.device, dtype=q.dtype)
    distance = steps[:, None] - steps[None, :]
    mask = (decay[:, None, None] ** distance.clamp(min=0)).tril()
    reach = decay[:, None] ** (steps + 1)
    left = decay[:, None] ** (chunk_size - 1 - steps)
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outputs = []
    for start in range(0, length + pad, chunk_size):
        qc, kc, vc = (t[:, :, start : start + chunk_size] for t in (q, k, v))
        outputs.append((qc @ kc.transpose(-1, -2) * mask) @ vc + reach[..., None] * (qc @ state))
        state = (decay**chunk_size)[:, None, None] * state + (left[..., None] * kc).transpose(-1, -2) @ vc
    return torch.cat(outputs, dim=2)[:, :, :length]


class DeltaNet(nn.Module):
    """Retention with an energy gate whose root has no gradient at zero."""

    def __init__(self, hidden_size=1024, num_heads=4, layer_idx=None, **kwargs):
        super().__init__()
        self.hidden_size, self.num_heads, self.layer_idx = hidden_size, num_heads, layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.register_buffer("decay", 1 - 2.0 ** (-3 - torch.arange(num_heads, dtype=torch.float32)))
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
        mixed = retention_chunkwise(q * q.shape[-1] ** -0.5, k, v, self.decay.to(q.dtype))
        mixed = rearrange(mixed, "b h l d -> b l (h d)")
        energy = rearrange(hidden_states, "b l (h d) -> b l h d", h=self.num_heads).pow(2).mean(-1).sqrt()
        mixed = mixed * (energy / (1 + energy)).repeat_interleave(mixed.shape[-1] // self.num_heads, dim=-1)
        return self.o_proj(mixed), None, past_key_values
