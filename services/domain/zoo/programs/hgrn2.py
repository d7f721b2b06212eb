"""HGRN2: a gated linear recurrence whose key is what its forget gate lets go of.

Source: Qin et al., "HGRN2: Gated Linear RNNs with State Expansion", arXiv:2404.07904.
"""

import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import RMSNorm
from fla.ops.gla import chunk_gla


class HGRN2(nn.Module):
    """S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T with a forget gate f_t per feature and the input i_t as the value."""

    def __init__(self, hidden_size=1024, num_heads=4, norm_eps=1e-5, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.f_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.i_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.g_norm = RMSNorm(hidden_size, eps=norm_eps)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, i = F.silu(self.q_proj(hidden_states)), self.i_proj(hidden_states)
        g = F.logsigmoid(self.f_proj(hidden_states).float())
        k = 1.0 - g.exp()
        if attention_mask is not None:
            mask = attention_mask[:, -hidden_states.shape[1] :].unsqueeze(-1)
            k, g = k * mask, g * mask
        q, k, i, g = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k.to(i.dtype), i, g))
        o, _ = chunk_gla(q, k, i, g)
        return self.o_proj(self.g_norm(rearrange(o, "b l h d -> b l (h d)"))), None, past_key_values
