"""Linear attention with RetNet's fixed decays (arXiv:2307.08621) and with none (arXiv:2006.16236)."""

from itertools import pairwise

import torch
from torch import Tensor

from services.fla_cpu.ops.decay import chunk_simple_gla, parallel_simple_gla
from services.fla_cpu.ops.shapes import Result, must_be_known, working

Sums = tuple[Tensor | None, Tensor]


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """RetNet's fixed decays, log(1 − 2^{−5−i}) for head i; shapes as in `chunk_simple_gla`."""
    must_be_known("chunk_retention", options)
    return chunk_simple_gla(
        q, k, v, None, retention_decay(q), scale, initial_state, output_final_state, cu_seqlens=cu_seqlens
    )  # fmt: skip


def fused_recurrent_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """As `chunk_retention`; `reverse`, which reads the future, is not offered."""
    must_be_known("fused_recurrent_retention", options | {"reverse": reverse})
    return chunk_simple_gla(
        q, k, v, None, retention_decay(q), scale, initial_state, output_final_state, state_v_first, cu_seqlens
    )  # fmt: skip


def parallel_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """As `chunk_retention`; the second part would be the attention matrix, which is never formed here."""
    g = retention_decay(q).expand(*q.shape[:2], -1)
    return parallel_simple_gla(q, k, v, g, scale, output_attentions, cu_seqlens)


def retention_decay(q: Tensor) -> Tensor:
    """[h] log decays for q: [b, l, h, d]."""
    heads = torch.arange(q.shape[2], dtype=working(q[:0]).dtype, device=q.device)
    return torch.log1p(-torch.exp2(-5.0 - heads))


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | tuple[Tensor, Tensor] | None = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | Sums | None]:
    """No decay; with `normalize` the output is divided by scale · q_t · Σ_{i≤t} k_i.

    The state of the normalised form is (memory [b, h, d_k, d_v], Σ k [b, 1, h, d_k]), as given and as returned.
    """
    memory, keys = initial_state if isinstance(initial_state, tuple) else (initial_state, None)
    output, last = chunk_simple_gla(
        q, k, v, None, None, scale, memory, output_final_state, cu_seqlens=cu_seqlens
    )  # fmt: skip
    if not normalize:
        return output, last
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    sums, total = _running_sum(working(k), keys, cu_seqlens)
    weight = (working(q) * factor * sums).sum(-1, keepdim=True)
    return (working(output) / (weight + 1e-10)).to(v.dtype), (last, total) if output_final_state else None


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | tuple[Tensor, Tensor] | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | Sums | None]:
    """As `chunk_linear_attn`, but not normalised unless asked for."""
    must_be_known("fused_recurrent_linear_attn", {"reverse": reverse})
    return chunk_linear_attn(q, k, v, scale, initial_state, output_final_state, normalize, cu_seqlens)


def _running_sum(k: Tensor, before: Tensor | None, boundaries: Tensor | None) -> tuple[Tensor, Tensor]:
    """Σ_{i≤t} k_i [b, l, h, d_k] and its last row per sequence [n, 1, h, d_k]."""
    edges = [(0, k.shape[1])] if boundaries is None else list(pairwise(boundaries.tolist()))
    parts, ends = [], []
    for place, (start, end) in enumerate(edges):
        part = k[:, start:end].cumsum(1)
        if before is not None:
            part = part + (before if boundaries is None else before[place : place + 1])
        parts.append(part)
        ends.append(part[:, -1:])
    return torch.cat(parts, dim=1), torch.cat(ends, dim=0)
