"""Linear attention and element-wise recurrences, without decay, or with a decay per head or per feature.

S_t = diag(e^{g_t}) S_{t-1} + k_t v_tᵀ and o_t = scale · S_tᵀ q_t (GLA, Yang et al., arXiv:2312.06635; a decay per head:
Mamba-2, arXiv:2405.21060; fixed decays: RetNet, arXiv:2307.08621; none: `attention.chunk_linear_attn`; read before the
decay: RWKV-6). All chunks are computed at once, and only states are passed between them; `shapes.decayed_products`
avoids overflow. HGRN (arXiv:2311.04823) is the same recurrence for vectors.
"""

import torch
from torch import Tensor

from services.fla_cpu.shapes import (
    Memory,
    Result,
    carry_states,
    chunk_size,
    decayed_products,
    decayed_sums,
    merge_chunks,
    per_sequence,
    require_known,
    require_packed,
    require_same_shape,
    run,
    split_chunks,
    upcast,
)

CHUNK = 32  # the fastest of 16, 32, 64 and 128 on a CPU


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """q, k: [b, l, h, d_k], v: [b, l, h, d_v]; log decay g: [b, l, h], or g_gamma: [h] for all steps, or both."""
    require_known("chunk_simple_gla", options)
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    require_same_shape(q, k, v, g=g)
    if g_gamma is not None:
        fixed = upcast(g_gamma).expand(*q.shape[:2], -1)
        g = fixed if g is None else fixed + g
    return run(chunkwise, q, (k, v, None if g is None else g.unsqueeze(-1)), v, scale, memory)


def parallel_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, None]:
    """As `chunk_simple_gla`; the second output, the attention matrix, is always None."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    require_known("parallel_simple_gla", {"output_attentions": output_attentions})
    return chunk_simple_gla(q, k, v, g, scale=scale, cu_seqlens=cu_seqlens)[0], None


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> Result:
    """q, k and the log decay g: [b, l, h, d_k], v: [b, l, h, d_v]."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    require_same_shape(q, k, v)
    if g.shape != k.shape:
        raise ValueError(f"g must have the shape of k, {tuple(k.shape)}, not {tuple(g.shape)}")
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return run(chunkwise, q, (k, v, g), v, scale, memory)


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
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """As `chunk_gla`, with the decay named gk. `gv` and `reverse` are not supported."""
    require_known("fused_recurrent_gla", options | {"gv": gv, "reverse": reverse})
    g = torch.zeros_like(k) if gk is None else gk
    return chunk_gla(q, k, v, g, scale, initial_state, output_final_state, state_v_first, cu_seqlens)


def chunkwise(q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The equation above for a batch, with a scale of 1; g: None, [b, l, h, 1] or [b, l, h, d_k]."""
    batch, length = q.shape[:2]
    size = chunk_size(length, CHUNK)
    q, k, v = (split_chunks(tensor, size) for tensor in (q, k, v))
    decay = None if g is None else split_chunks(g, size).cumsum(-2)
    inside = decayed_products(q, k, decay) @ v
    retained = None
    if decay is not None:
        end = decay[..., -1:, :]
        q, k, retained = q * decay.exp(), k * (end - decay).exp(), end.exp().transpose(-1, -2)
    states, last = carry_states(k.transpose(-1, -2) @ v, retained, state.flatten(0, 1))
    return merge_chunks(inside + q @ states, batch, length), last.reshape(batch, -1, *last.shape[1:])


def chunkwise_values(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """S_t = S_{t−1} diag(e^{g_t}) + k_t v_tᵀ, with one log decay for each value feature, g: [b, l, h, d_v]."""
    batch, length = q.shape[:2]
    size = chunk_size(length, CHUNK)
    q, k, v = (split_chunks(tensor, size) for tensor in (q, k, v))
    decay = split_chunks(g, size).cumsum(-2)
    end, keys = decay[..., -1:, :], k.transpose(-1, -2)
    inside = decayed_sums((q @ keys).tril(), v, decay)
    states, last = carry_states(keys @ (v * (end - decay).exp()), end.exp(), state.flatten(0, 1))
    return merge_chunks(inside + (q @ states) * decay.exp(), batch, length), last.reshape(batch, -1, *last.shape[1:])


def chunk_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """RWKV-6 (arXiv:2404.05892), which reads a state before its decay: o_t = scale · (S_{t−1} + diag(u) k_t v_tᵀ)ᵀ r_t.

    r, k and the log decay w: [b, l, h, d_k], v: [b, l, h, d_v], u: [h, d_k].
    """
    require_known("chunk_rwkv6", options)
    require_same_shape(r, k, v)
    if w.shape != k.shape or u.shape != k.shape[2:]:
        raise ValueError(
            f"w must have the shape of k, {tuple(k.shape)}, and u be [heads, d_k] = {tuple(k.shape[2:])}, "
            f"not {tuple(w.shape)} and {tuple(u.shape)}"
        )
    r = upcast(r) * (r.shape[-1] ** -0.5 if scale is None else scale)
    bonus = (r * u * k).sum(-1, keepdim=True)
    return run(_before_the_update, r, (k, v, w, bonus), v, 1.0, Memory(initial_state, output_final_state, cu_seqlens))


def _before_the_update(
    r: Tensor, k: Tensor, v: Tensor, w: Tensor, bonus: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Each token's state is read by the query of the next one, and the initial state by the first."""
    first = torch.einsum("blhk,bhkv->blhv", r[:, :1], state)
    later, last = chunkwise(torch.cat([r[:, 1:], torch.zeros_like(r[:, :1])], dim=1), k, v, w, state)
    return torch.cat([first, later[:, :-1]], dim=1) + bonus * v, last


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    state_v_first: bool = False,
    **options: object,
) -> Result:
    """RetNet's fixed decays, log(1 − 2^{−5−i}) for head i; shapes as in `chunk_simple_gla`."""
    require_known("chunk_retention", options)
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
    """As `chunk_retention`; the second output, the attention matrix, is always None."""
    g = retention_decay(q).expand(*q.shape[:2], -1)
    return parallel_simple_gla(q, k, v, g, scale, output_attentions, cu_seqlens)


def retention_decay(q: Tensor) -> Tensor:
    """[h] log decays for q: [b, l, h, d]."""
    heads = torch.arange(q.shape[2], dtype=upcast(q[:0]).dtype, device=q.device)
    return torch.log1p(-torch.exp2(-5.0 - heads))


def chunk_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """x, g: [b, l, d], g the log decay (≤ 0) → (o [b, l, d], state [b, d] or None)."""
    if x.shape != g.shape or x.dim() != 3:
        raise ValueError(f"x and g must both be [batch, length, features], not {tuple(x.shape)} and {tuple(g.shape)}")
    require_packed(x.shape[0], x.shape[1], cu_seqlens)
    sequences = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    shape = (sequences, x.shape[2])
    state = upcast(x).new_zeros(shape) if initial_state is None else upcast(initial_state)
    if state.shape != shape:
        raise ValueError(f"initial_state must be [sequences, features] = {shape}, not {tuple(state.shape)}")
    output, last = per_sequence(_scan, (upcast(x), upcast(g)), state, cu_seqlens)
    return output.to(x.dtype), last if output_final_state else None


def _scan(x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """A parallel scan by doubling: after step s, each position includes its last 2s inputs; log₂ l steps."""
    decay, step = g.exp(), 1
    x = torch.cat([state.unsqueeze(1), x], dim=1)
    decay = torch.cat([torch.ones_like(decay[:, :1]), decay], dim=1)
    while step < x.shape[1]:
        x = torch.cat([x[:, :step], torch.addcmul(x[:, step:], decay[:, step:], x[:, :-step])], dim=1)
        decay = torch.cat([decay[:, :step], decay[:, step:] * decay[:, :-step]], dim=1)
        step *= 2
    return x[:, 1:], x[:, -1]
