"""Linear attention with decay: none, one per head and step, or one per key feature and step.

S_t = diag(e^{g_t}) S_{t-1} + k_t v_tᵀ and o_t = scale · S_tᵀ q_t (GLA, Yang et al., arXiv:2312.06635; one decay per
head: Mamba-2, arXiv:2405.21060). Chunks are computed at once and joined by their states; see pairs.py for why nothing
overflows.
"""

import torch
from torch import Tensor

from services.fla_cpu.ops.pairs import decayed_products
from services.fla_cpu.ops.shapes import (
    Memory,
    Result,
    chunked,
    joined,
    must_be_known,
    power_of_two,
    run,
    validate_same_embedder,
    working,
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
    cu_seqlens_cpu: Tensor | None = None,
    **options: object,
) -> Result:
    """q, k: [b, l, h, d_k], v: [b, l, h, d_v]; log decay g: [b, l, h], or g_gamma: [h] for all steps, or both.

    Raises ValueError for shapes that do not match and TypeError for options that are not offered.
    """
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    must_be_known("chunk_simple_gla", options)
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    validate_same_embedder(q, k, v, g=g)
    if g_gamma is not None:
        fixed = working(g_gamma).expand(*q.shape[:2], -1)
        g = fixed if g is None else fixed + g
    return decayed(q, k, v, None if g is None else g.unsqueeze(-1), scale, memory)


def fused_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """As `chunk_simple_gla`; `reverse`, which reads the future, is not offered."""
    must_be_known("fused_recurrent_simple_gla", options | {"reverse": reverse})
    return chunk_simple_gla(
        q, k, v, g, g_gamma, scale, initial_state, output_final_state, state_v_first, cu_seqlens
    )  # fmt: skip


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
    """As `chunk_simple_gla`; the second part would be the attention matrix, which is never formed here."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    must_be_known("parallel_simple_gla", {"output_attentions": output_attentions})
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
    validate_same_embedder(q, k, v)
    if g.shape != k.shape:
        raise ValueError(f"g must have the shape of k, {tuple(k.shape)}, not {tuple(g.shape)}")
    return decayed(q, k, v, g, scale, Memory(initial_state, output_final_state, cu_seqlens, state_v_first))


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
    """As `chunk_gla`, with the decay named gk. Decays of values and reversed time are not offered."""
    must_be_known("fused_recurrent_gla", options | {"gv": gv, "reverse": reverse})
    g = torch.zeros_like(k) if gk is None else gk
    return chunk_gla(q, k, v, g, scale, initial_state, output_final_state, state_v_first, cu_seqlens)


def decayed(q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, scale: float | None, memory: Memory) -> Result:
    """The equation above; g: None, [b, l, h, 1] or [b, l, h, d_k]."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return run(_whole, working(q) * factor, (k, v, g), v, memory)


def _whole(q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """All sequences of a batch; q comes scaled."""
    batch, length = q.shape[:2]
    size = power_of_two(length, CHUNK)
    q, k, v = (chunked(one, size) for one in (q, k, v))
    decay = None if g is None else chunked(g, size).cumsum(-2)
    inside = decayed_products(q, k, decay) @ v
    kept = None
    if decay is not None:
        end = decay[..., -1:, :]
        q, k, kept = q * decay.exp(), k * (end - decay).exp(), end.exp().transpose(-1, -2)
    states, last = _carry(k.transpose(-1, -2) @ v, kept, state.flatten(0, 1))
    return joined(inside + q @ states, batch, length), last.reshape(batch, -1, *last.shape[1:])


def _carry(written: Tensor, kept: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The memory before each chunk [n, b·h, d_k, d_v] and after the last, from what each chunk writes and keeps."""
    before = []
    decays = [None] * len(written) if kept is None else kept.unbind(0)
    for update, decay in zip(written.unbind(0), decays, strict=True):
        before.append(state)
        state = state + update if decay is None else torch.addcmul(update, state, decay)
    return torch.stack(before), state
