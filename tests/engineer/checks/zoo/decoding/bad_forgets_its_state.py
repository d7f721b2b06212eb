from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


def retention_with_state(q, k, v, decay, state):
    """Token by token, from a state [batch, heads, dim, dim]; slow and plain."""
    outputs = []
    for i in range(q.shape[2]):
        state = decay[:, None, None] * state + k[:, :, i, :, None] * v[:, :, i, None, :]
        outputs.append((q[:, :, i, None] @ state).squeeze(2))
    return torch.stack(outputs, dim=2), state


class DeltaNet(nn.Module):
    """Retention whose cache is filled with the state of the first piece and never read again."""

    def __init__(self, hidden_size=1024, num_heads=4, layer_idx=None, **kwargs):
        super().__init__()
        self.hidden_size, self.num_heads, self.layer_idx = hidden_size, num_heads, layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.register_buffer("decay", 1 - 2.0 ** (-3 - torch.arange(num_heads, dtype=torch.float32)))
        self.conv = nn.Parameter(torch.randn(hidden_size, 1, 4) / 2)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        past_key_values=None,
        use_cache=False,
        output_attentions=False,
        **kwargs,
    ):
        last = (
            past_key_values[self.layer_idx]
            if past_key_values is not None and len(past_key_values) > self.layer_idx
            else None
        )
        before = (
            last["conv_state"]
            if last is not None
            else hidden_states.new_zeros(hidden_states.shape[0], 3, self.hidden_size)
        )
        window = torch.cat([before, hidden_states], dim=1)
        hidden_states = F.silu(F.conv1d(window.transpose(1, 2), self.conv, groups=self.hidden_size).transpose(1, 2))
        q, k, v = (
            rearrange(proj(hidden_states), "b l (h d) -> b h l d", h=self.num_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        state = last["recurrent_state"] if last is not None else q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
        mixed, state = retention_with_state(
            q * q.shape[-1] ** -0.5, k, v, self.decay.to(q.dtype), torch.zeros_like(state)
        )
        if past_key_values is not None:
            past_key_values.update(
                recurrent_state=state, conv_state=window[:, -3:], layer_idx=self.layer_idx, offset=q.shape[2]
            )
        mixed = rearrange(mixed, "b h l d -> b l (h d)")
        return self.o_proj(mixed), None, past_key_values
