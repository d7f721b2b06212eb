"""Delta rule with and without decay, chunk by chunk.

S_t = e^{g_t} S_{t-1} + β_t k_t (v_t − e^{g_t} S_{t-1}ᵀ k_t)ᵀ and o_t = scale · S_tᵀ q_t
(Yang et al., arXiv:2406.06484 for g = 0; arXiv:2412.06464 with decay). Inside a chunk, with G the running sum of g, the
corrections u solve (I + A) U = β (V − e^G K S₀), A_{ti} = β_t e^{G_t − G_i} k_t·k_i for i < t: a triangular system that
all chunks solve at once; only S goes from chunk to chunk. Exponents are never positive, so nothing overflows.
"""

import torch
from torch import Tensor

from services.engineer.fla_cpu.modules.l2norm import l2_norm
from services.engineer.fla_cpu.ops.shapes import (
    chunked,
    joined,
    must_be_packed,
    must_match,
    per_sequence,
    state_of,
    working,
)

CHUNK = 32


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """q, k: [b, l, h, d_k], v: [b, l, h, d_v], beta: [b, l, h] → (o like v, state [b, h, d_k, d_v] or None)."""
    del cu_seqlens_cpu, options
    return _delta(q, k, v, None, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_delta_rule`, with g: [b, l, h], the logarithm of each step's decay (not positive)."""
    del cu_seqlens_cpu, options
    if beta is not None and use_beta_sigmoid_in_kernel:
        beta = torch.sigmoid(working(beta)) * (2.0 if allow_neg_eigval else 1.0)
    return _delta(q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


def _delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    scale: float | None,
    initial: Tensor | None,
    with_state: bool,
    normalise: bool,
    boundaries: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    must_match(q, k, v, g=g, beta=beta)
    if beta is not None and beta.dim() != 3:
        raise ValueError(f"beta must be [batch, length, heads], not {tuple(beta.shape)}")
    must_be_packed(q.shape[0], boundaries)
    if normalise:
        q, k = l2_norm(working(q)), l2_norm(working(k))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    beta = q.new_ones(q.shape[:3]) if beta is None else beta
    with torch.autocast(q.device.type, enabled=False):
        inputs = working(q) * factor, working(k), working(v), working(beta), None if g is None else working(g)
        output, state = per_sequence(_whole, inputs, initial, boundaries)
    return output.to(v.dtype), state if with_state else None


def _whole(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All sequences of a batch; q comes scaled."""
    length, size = q.shape[1], min(CHUNK, max(1, q.shape[1]))
    q, k, v, beta = (chunked(one, size) for one in (q, k, v, beta.unsqueeze(-1)))
    decay = None if g is None else chunked(g.unsqueeze(-1), size).squeeze(-1).cumsum(-1)
    output, state = _chunks(q, k, v, beta, decay, state_of(initial, q, k.shape[-1], v.shape[-1]))
    return joined(output, length), state


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """[b, h, n, c, ·]: solve all chunks, then pass the memory along. `decay`: running sum of g in each chunk."""
    size = q.shape[3]
    between = _between(decay, size, q)
    scores = (q @ k.transpose(-1, -2)) * between
    system = beta * (k @ k.transpose(-1, -2)) * between.tril(-1)
    since = None if decay is None else decay.exp().unsqueeze(-1)
    keys = k if since is None else k * since
    solved = torch.linalg.solve_triangular(
        system + torch.eye(size, dtype=q.dtype, device=q.device),
        torch.cat([beta * v, beta * keys], dim=-1), upper=False, unitriangular=True,
    )  # fmt: skip
    values, erased = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    queries = q if since is None else q * since
    left = k if decay is None else k * (decay[..., -1:] - decay).exp().unsqueeze(-1)
    whole = None if decay is None else decay[..., -1].exp()[..., None, None]
    outputs = []
    for n in range(q.shape[2]):
        update = values[:, :, n] - erased[:, :, n] @ state
        outputs.append(queries[:, :, n] @ state + scores[:, :, n] @ update)
        kept = state if whole is None else state * whole[:, :, n]
        state = kept + left[:, :, n].transpose(-1, -2) @ update
    return torch.stack(outputs, dim=2), state


def _between(decay: Tensor | None, size: int, like: Tensor) -> Tensor:
    """[…, c, c]: what is left at row t of what was written at column i ≤ t; zero above the diagonal."""
    lower = torch.ones(size, size, dtype=torch.bool, device=like.device).tril()
    if decay is None:
        return lower.to(like.dtype)
    difference = decay.unsqueeze(-1) - decay.unsqueeze(-2)
    return difference.masked_fill(~lower, float("-inf")).exp()
