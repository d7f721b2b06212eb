"""Softmax attention for references and hybrids, with the full attention matrix [b, h, l, l]."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu.shapes import require_packed, upcast


def parallel_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    window_size: int | None = None,
    cu_seqlens: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    *,
    sink_bias: Tensor | None = None,
) -> Tensor:
    """Causal attention; q: [b, l, h, d], k and v may have fewer heads (grouped). g: [b, l, h], a log forget gate.

    sink_bias: [h], the logit of an attention sink without a value.
    """
    del chunk_indices  # derived from cu_seqlens, for fla's kernel
    if g is not None and g.shape != q.shape[:3]:
        raise ValueError(f"g must be [batch, length, heads] = {tuple(q.shape[:3])}, not {tuple(g.shape)}")
    require_packed(q.shape[0], q.shape[1], cu_seqlens)
    edges = [(0, q.shape[1])] if cu_seqlens is None else list(pairwise(cu_seqlens.tolist()))
    parts = []
    for start, end in edges:
        part = slice(start, end)
        bias = _bias(end - start, None if g is None else g[:, part], window_size, q)
        parts.append(_attend(q[:, part], k[:, part], v[:, part], bias, scale, sink_bias))
    return torch.cat(parts, dim=1)


def parallel_forgetting_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    window_size: int | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Attention with a forget gate (arXiv:2503.02130); g: [b, l, h], log decays."""
    return parallel_attn(q, k, v, g, scale, window_size, cu_seqlens)


def _bias(length: int, g: Tensor | None, window: int | None, like: Tensor) -> Tensor:
    """The bias of the logits, [l, l] or [b, h, l, l]: −∞ for masked keys."""
    positions = torch.arange(length, device=like.device)
    distance = positions[:, None] - positions
    allowed = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    bias = torch.zeros_like(distance, dtype=upcast(like[:0]).dtype)
    if g is not None:
        running = upcast(g).cumsum(1).transpose(1, 2)
        bias = running.unsqueeze(-1) - running.unsqueeze(-2)
    return bias.masked_fill(~allowed, float("-inf"))


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float | None, sink: Tensor | None) -> Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if sink is not None:
        bias = bias.expand(q.shape[0], q.shape[1], -1, -1)
        bias = torch.cat([sink.to(bias.dtype)[:, None, None].expand(*bias.shape[:3], 1), bias], dim=-1)
        k, v = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=scale, enable_gqa=True)
    return output.transpose(1, 2)
