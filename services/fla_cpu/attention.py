"""Attention with normalised weights: softmax attention, linear attention divided by its weights, and bounded memories.

Softmax attention, for references and hybrids, has the full matrix [b, h, l, l]. Linear attention (arXiv:2006.16236),
Based (arXiv:2402.18668) and ReBased (arXiv:2402.10644) divide by the sum of the weights. ABC (arXiv:2110.02488) and
gated slot attention (arXiv:2409.07146) attend to a fixed number of slots, and LightNet (arXiv:2405.21022) normalises
each key feature by a softmax over time; these are recurrences with decays, computed by `decay.py`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu.decay import chunk_gla, chunk_simple_gla, chunkwise, chunkwise_values
from services.fla_cpu.features import products
from services.fla_cpu.shapes import (
    Memory,
    carry_states,
    chunk_size,
    merge_chunks,
    per_sequence,
    require_known,
    require_packed,
    require_same_shape,
    run,
    split_chunks,
    upcast,
)

FEATURES_CHUNK = 64  # the fastest of 32, 64 and 128 on a CPU
Sums = tuple[Tensor | None, Tensor]
States = tuple[Tensor | None, Tensor | None]


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


def parallel_forgetting_attn(q: Tensor, k: Tensor, v: Tensor, g: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Attention with a forget gate (arXiv:2503.02130); g: [b, l, h], log decays."""
    return parallel_attn(q, k, v, g, *rest, **options)


def attn_decoding_one_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
    do_gate_scale: bool = False,
    *,
    window_size: int | None = None,
    sink_bias: Tensor | None = None,
) -> Tensor:
    """Attention of the last token of each of n packed sequences; q: [1, n, h, d] → [1, n, h, d].

    With `do_gate_scale`, the forget gates are scaled, too.
    """
    require_packed(k.shape[0], k.shape[1], cu_seqlens)
    if cu_seqlens is None or q.shape[1] != len(cu_seqlens) - 1:
        raise ValueError("cu_seqlens must have the boundaries of as many sequences as there are queries")
    if g is not None and do_gate_scale:
        g = g * (k.shape[-1] ** -0.5 if scale is None else scale)
    parts = []
    for index, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
        bias = _bias(end - start, None if g is None else g[:, start:end], window_size, q)[..., -1:, :]
        query = q[:, index : index + 1]
        parts.append(_attend(query, k[:, start:end], v[:, start:end], bias, scale, sink_bias))
    return torch.cat(parts, dim=1)


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
    """Linear attention without decay; with `normalize` the output is divided by scale · q_t · Σ_{i≤t} k_i.

    The initial and final state of the normalised form is (S [b, h, d_k, d_v], Σ k [b, 1, h, d_k]).
    """
    memory, keys = initial_state if isinstance(initial_state, tuple) else (initial_state, None)
    output, last = chunk_simple_gla(
        q, k, v, None, None, scale, memory, output_final_state, cu_seqlens=cu_seqlens
    )  # fmt: skip
    if not normalize:
        return output, last
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    sums, total = per_sequence(_running_sum, [upcast(k)], keys, cu_seqlens)
    weight = (upcast(q) * factor * sums).sum(-1, keepdim=True)
    return (upcast(output) / (weight + 1e-10)).to(v.dtype), (last, total) if output_final_state else None


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
    """As `chunk_linear_attn`, not normalised by default."""
    require_known("fused_recurrent_linear_attn", {"reverse": reverse})
    return chunk_linear_attn(q, k, v, scale, initial_state, output_final_state, normalize, cu_seqlens)


def _running_sum(k: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Σ_{i≤t} k_i [b, l, h, d_k] and its last row [b, 1, h, d_k]."""
    total = (F.pad(k, (0, 0, 0, 0, 1, 0)) if before is None else torch.cat([before, k], dim=1)).cumsum(1)
    return total[:, 1:], total[:, -1:]


def parallel_based(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, use_norm: bool = True) -> Tensor:
    """Weights 1 + x + x²/2 with x = scale · q·k, the exponential to second order; divided by their sum by default.

    q, k: [b, l, h, d_k], v: [b, l, h, d_v]. The cost grows with d_k² and linearly with the length.
    """
    require_same_shape(q, k, v)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    output, total = _weighted(upcast(q) * factor, upcast(k), upcast(v), _exponential, _exponential_features)
    return (output / (total + 1e-6) if use_norm else output).to(q.dtype)


fused_chunk_based = parallel_based


def parallel_rebased(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eps: float = 1e-5,
    use_scale: bool = True,
    use_normalize: bool = True,
    return_both: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Weights (scale · q·k)² with scale = 1/√d_k or 1; divided by their sum by default.

    With `return_both` the undivided output [b, h, l, d_v] and the sums [b, h, l], heads first as in fla.
    """
    require_same_shape(q, k, v)
    factor = q.shape[-1] ** -0.5 if use_scale else 1.0
    output, total = _weighted(upcast(q) * factor, upcast(k), upcast(v), torch.square, products)
    if return_both:
        return output.transpose(1, 2).to(q.dtype), total.squeeze(-1).transpose(1, 2).to(q.dtype)
    return (output / (total + eps) if use_normalize else output).to(q.dtype)


def _exponential(x: Tensor) -> Tensor:
    return 1 + x + x.square() / 2


def _exponential_features(x: Tensor) -> Tensor:
    """The map whose products are `_exponential` of products of x."""
    return torch.cat([torch.ones_like(x[..., :1]), x, products(x * 0.5**0.25)], dim=-1)


def _weighted(
    q: Tensor, k: Tensor, v: Tensor, weight: Callable[[Tensor], Tensor], features: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Σ_{i≤t} weight(q_t·k_i) v_i, [b, l, h, d_v], and the sums of the weights, [b, l, h, 1].

    The features, of which there are many more than in q and k, are computed for the sums of whole chunks only.
    """
    batch, length = q.shape[:2]
    size = chunk_size(length, FEATURES_CHUNK)
    with torch.autocast(q.device.type, enabled=False):
        values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        q, k, values = (split_chunks(tensor, size) for tensor in (q, k, values))
        inside = weight(q @ k.transpose(-1, -2)).tril() @ values
        updates = features(k).transpose(-1, -2) @ values
        states, _ = carry_states(updates, None, torch.zeros_like(updates[0]))
        output = merge_chunks(inside + features(q) @ states, batch, length)
    return output[..., :-1], output[..., -1:]


def chunk_gsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    initial_state: tuple[Tensor | None, Tensor | None] | None = None,
    output_final_state: bool = False,
    checkpoint_level: int = 2,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, States]:
    """Gated slot attention: keys and values are written to m slots with weights s, and read by softmax attention.

    q: [b, l, h_q, d_k] with h_q a multiple of h; k: [b, l, h, d_k], v: [b, l, h, d_v], s and the log decays g:
    [b, l, h, m]; without g, s are logits that are normalised over time, as in ABC. Two recurrences with a softmax
    between them. → (o [b, l, h_q, d_v], (keys [n, h, d_k, m], values [n, h, m, d_v]) or (None, None))
    """
    del checkpoint_level  # of fla's kernel: memory against time
    require_known("chunk_gsa", options)
    if s.dim() != 4 or s.shape[:3] != k.shape[:3] or (g is not None and g.shape != s.shape):
        raise ValueError(f"s and g must be [batch, length, heads, slots] with the heads of k, not {tuple(s.shape)}")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"the heads of q ({q.shape[2]}) must be a multiple of the heads of k ({k.shape[2]})")
    s = upcast(s)
    if g is None:
        s, g, _ = fused_additive_gate(s, None, cu_seqlens)
    shared = q.shape[2] // k.shape[2]
    k, v, s, g = (tensor.repeat_interleave(shared, dim=2) for tensor in (k, v, s, g))
    before = [None if state is None else state.repeat_interleave(shared, 1) for state in initial_state or (None, None)]
    require_same_shape(q, k, v)
    first, second = (Memory(state, output_final_state, cu_seqlens) for state in before)
    logits, keys = run(chunkwise_values, q, (k, s, g), s, scale, first)
    output, values = run(chunkwise, logits.softmax(-1), (s, v, g), v, 1.0, second)
    return output, (None if keys is None else keys[:, ::shared], None if values is None else values[:, ::shared])


def chunk_abc(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    initial_state: tuple[Tensor | None, Tensor | None] | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, States | None]:
    """Attention with bounded-memory control: `chunk_gsa` without g."""
    output, states = chunk_gsa(q, k, v, s, None, None, initial_state, output_final_state)
    return output, states if output_final_state else None


def fused_additive_gate(
    x: Tensor,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
    gate_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax over time as a recurrence: weights e^{x_t − z_t} and log decays z_{t−1} − z_t, z_t = log Σ_{i≤t} e^{x_i}.

    x: [b, l, h, d]; initial_state: z before the first token, [n, 1, h, d] → (weights like x, log decays like x, the
    last z like the initial state). The first decay of a sequence without an initial state is 0; the last z of one
    without tokens is its initial state, or −∞.
    """
    require_packed(x.shape[0], x.shape[1], cu_seqlens)
    sums, last = per_sequence(_log_sums, [upcast(x)], initial_state, cu_seqlens)
    z, before = sums.chunk(2, dim=-1)
    weights, decays = (upcast(x) - z).exp(), before - z
    return weights.to(output_dtype or x.dtype), decays.to(gate_dtype or x.dtype), last


def _log_sums(x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """z of each token beside that of the token before, [b, l, h, 2·d], and the last z."""
    if before is None:
        z = x.logcumsumexp(1)
        last = F.pad(z, (0, 0, 0, 0, 1, 0), value=float("-inf"))[:, -1:]
        return torch.cat([z, torch.cat([z[:, :1], z[:, :-1]], dim=1)], dim=-1), last
    z = torch.cat([upcast(before), x], dim=1).logcumsumexp(1)
    return torch.cat([z[:, 1:], z[:, :-1]], dim=-1), z[:, -1:]


def chunk_lightnet(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: tuple[Tensor | None, Tensor | None] | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Sums]:
    """GLA whose keys and decays are `fused_additive_gate` of the logits k; the second state is the last z."""
    state, normaliser = (None, None) if initial_state is None else initial_state
    weights, g, last = fused_additive_gate(upcast(k), normaliser, cu_seqlens)
    output, state = chunk_gla(q, weights, v, g, scale, state, output_final_state, state_v_first, cu_seqlens)
    return output, (state, last)
