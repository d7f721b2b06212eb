"""Linear attention with decay: none, one per head and step, or one per key feature and step.

S_t = diag(e^{g_t}) S_{t-1} + k_t v_tᵀ and o_t = scale · S_tᵀ q_t (GLA, Yang et al., arXiv:2312.06635; one decay per
head: Mamba-2, arXiv:2405.21060, and RetNet, arXiv:2307.08621). Chunks are computed at once and joined by their states;
the exponents used are differences of running sums with the later one first, hence never positive.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from services.engineer.fla_cpu.ops.shapes import (
    chunked,
    joined,
    must_be_packed,
    must_match,
    per_sequence,
    state_of,
    working,
)

Whole = Callable[..., tuple[Tensor, Tensor]]
SCALAR_CHUNK = 64
VECTOR_CHUNK = 16  # decays per feature cost a [c, c, d] tensor for each chunk: short chunks keep that small


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """q, k: [b, l, h, d_k], v: [b, l, h, d_v]; log decay g: [b, l, h], or g_gamma: [h] for all steps."""
    del cu_seqlens_cpu, options
    if g is None and g_gamma is not None:
        g = g_gamma.expand(*q.shape[:2], -1)
    return _attend(_scalar, q, k, v, g, scale, initial_state, output_final_state, cu_seqlens)


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """q, k and the log decay g: [b, l, h, d_k], v: [b, l, h, d_v]."""
    del cu_seqlens_cpu, options
    if g.shape != k.shape:
        raise ValueError(f"g must have the shape of k, {tuple(k.shape)}, not {tuple(g.shape)}")
    return _attend(_vector, q, k, v, g, scale, initial_state, output_final_state, cu_seqlens)


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gla`, with the decay named gk. Decays of values and reversed time are not offered."""
    del options
    if gv is not None or reverse:
        raise ValueError("gv and reverse are not supported: give gk, and flip the sequence yourself")
    g = torch.zeros_like(k) if gk is None else gk
    return chunk_gla(q, k, v, g, scale, initial_state, output_final_state, cu_seqlens)


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """RetNet's fixed decays: log(1 − 2^{−5−i}) for head i."""
    del options
    heads = torch.arange(q.shape[2], dtype=torch.float32, device=q.device)
    gamma = torch.log1p(-torch.exp2(-5.0 - heads))
    return chunk_simple_gla(q, k, v, None, gamma, scale, initial_state, output_final_state, cu_seqlens)


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """No decay; with `normalize` the output is divided by q_t · Σ_{i≤t} k_i."""
    del options
    output, state = chunk_simple_gla(q, k, v, None, None, scale, initial_state, output_final_state, cu_seqlens)
    if not normalize:
        return output, state
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    weight = (working(q) * factor * _running_sum(working(k), cu_seqlens)).sum(-1, keepdim=True)
    return (working(output) / (weight + 1e-10)).to(v.dtype), state


def _running_sum(k: Tensor, boundaries: Tensor | None) -> Tensor:
    if boundaries is None:
        return k.cumsum(1)
    edges = boundaries.tolist()
    parts = [k[:, start:end].cumsum(1) for start, end in pairwise(edges)]
    return torch.cat(parts, dim=1)


def _attend(
    recurrence: Whole,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    scale: float | None,
    initial: Tensor | None,
    with_state: bool,
    boundaries: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    must_match(q, k, v, g=g)
    must_be_packed(q.shape[0], boundaries)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        inputs = working(q) * factor, working(k), working(v), None if g is None else working(g)
        output, state = per_sequence(recurrence, inputs, initial, boundaries)
    return output.to(v.dtype), state if with_state else None


def _scalar(q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    """One decay per head and step, or none."""
    length, size = q.shape[1], min(SCALAR_CHUNK, max(1, q.shape[1]))
    q, k, v = (chunked(one, size) for one in (q, k, v))
    state = state_of(initial, q, k.shape[-1], v.shape[-1])
    lower = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    scores = q @ k.transpose(-1, -2)
    if g is None:
        inside = scores.masked_fill(~lower, 0.0)
        queries, left, whole = q, k, None
    else:
        decay = chunked(g.unsqueeze(-1), size).squeeze(-1).cumsum(-1)
        inside = scores * (decay.unsqueeze(-1) - decay.unsqueeze(-2)).masked_fill(~lower, float("-inf")).exp()
        queries, left = q * decay.exp().unsqueeze(-1), k * (decay[..., -1:] - decay).exp().unsqueeze(-1)
        whole = decay[..., -1].exp()[..., None, None]
    states, state = _carry(left.transpose(-1, -2) @ v, whole, state)
    return joined(inside @ v + queries @ states, length), state


def _vector(q: Tensor, k: Tensor, v: Tensor, g: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    """One decay per key feature and step."""
    length, size = q.shape[1], min(VECTOR_CHUNK, max(1, q.shape[1]))
    q, k, v, g = (chunked(one, size) for one in (q, k, v, g))
    state = state_of(initial, q, k.shape[-1], v.shape[-1])
    decay = g.cumsum(-2)
    later = ~torch.ones(size, size, dtype=torch.bool, device=q.device).tril().unsqueeze(-1)
    between = (decay.unsqueeze(-2) - decay.unsqueeze(-3)).masked_fill(later, float("-inf")).exp()
    inside = torch.einsum("bhntd,bhntid,bhnid->bhnti", q, between, k)
    left = k * (decay[..., -1:, :] - decay).exp()
    whole = decay[..., -1, :].exp().unsqueeze(-1)
    states, state = _carry(left.transpose(-1, -2) @ v, whole, state)
    return joined(inside @ v + (q * decay.exp()) @ states, length), state


def _carry(written: Tensor, whole: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The memory before each chunk [b, h, n, d_k, d_v] and after the last, from what each chunk writes and keeps."""
    before = []
    for n in range(written.shape[2]):
        before.append(state)
        state = (state if whole is None else state * whole[:, :, n]) + written[:, :, n]
    return torch.stack(before, dim=2), state
