"""Softmax attention, for references and hybrids."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from services.engineer.fla_cpu.ops.shapes import must_be_packed


def parallel_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    window_size: int | None = None,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Tensor:
    """Causal attention; q: [b, l, h, d], k and v may have fewer heads (grouped). g: [b, l, h], a log forget gate."""
    del options
    must_be_packed(q.shape[0], cu_seqlens)
    if cu_seqlens is not None:
        edges = cu_seqlens.tolist()
        parts = [
            parallel_attn(q[:, s:e], k[:, s:e], v[:, s:e], None if g is None else g[:, s:e], scale, window_size)
            for s, e in pairwise(edges)
        ]
        return torch.cat(parts, dim=1)
    length = q.shape[1]
    distance = torch.arange(length, device=q.device)[:, None] - torch.arange(length, device=q.device)[None]
    allowed = (distance >= 0) if window_size is None else (distance >= 0) & (distance < window_size)
    bias = torch.zeros(length, length, dtype=q.dtype, device=q.device).masked_fill(~allowed, float("-inf"))
    if g is not None:
        running = g.to(q.dtype).cumsum(1).transpose(1, 2)
        bias = bias + (running.unsqueeze(-1) - running.unsqueeze(-2))
    output = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias, scale=scale, enable_gqa=True
    )
    return output.transpose(1, 2)
