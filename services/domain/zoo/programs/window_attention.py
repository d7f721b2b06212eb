"""Softmax attention over a sliding window: exact look-up nearby, nothing beyond the last 64 tokens of each layer.

The control for every candidate that reads its recent past by softmax. Source: Beltagy et al., arXiv:2004.05150;
positions from Su et al., arXiv:2104.09864.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from fla.modules import RotaryEmbedding


def window_attention(q, k, v, window):
    """[b, h, l, d]: each query sees itself and the window - 1 tokens before it; linear in the length."""
    length = q.shape[2]
    tail = -length % window
    q, k, v = (F.pad(x, (0, 0, 0, tail)) for x in (q, k, v))
    q = rearrange(q, "b h (n w) d -> b h n w d", w=window)
    keys, values = (F.pad(x, (0, 0, window, 0)).unfold(2, 2 * window, window) for x in (k, v))
    place = torch.arange(window, device=q.device)[:, None] + window
    other = torch.arange(2 * window, device=q.device)
    seen = (other <= place) & (other > place - window)
    chunk = torch.arange(q.shape[2], device=q.device)[:, None, None]
    seen = seen & ((chunk > 0) | (other >= window))  # nothing lies before the first chunk
    logits = torch.einsum("bhnwd,bhndj->bhnwj", q, keys) * q.shape[-1] ** -0.5
    weights = logits.float().masked_fill(~seen, float("-inf")).softmax(-1).to(v.dtype)
    o = torch.einsum("bhnwj,bhndj->bhnwd", weights, values)
    return rearrange(o, "b h n w d -> b h (n w) d")[:, :, :length]


class WindowAttention(nn.Module):
    """o_t = sum over t - 64 < i <= t of softmax(q_t k_i / sqrt(d)) v_i."""

    def __init__(self, hidden_size=1024, num_heads=4, window=64, **kwargs):
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.rotary = RotaryEmbedding(hidden_size // num_heads)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        q, k, v = (rearrange(x, "b l (h d) -> b l h d", h=self.num_heads) for x in (q, k, v))
        q, k = self.rotary(q, k)
        q, k, v = (rearrange(x, "b l h d -> b h l d") for x in (q, k, v))
        o = window_attention(q, k, v, self.window)
        return self.o_proj(rearrange(o, "b h l d -> b l (h d)")), None, past_key_values
