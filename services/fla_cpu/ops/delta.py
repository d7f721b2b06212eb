"""Delta rule with and without decay, chunk by chunk.

S_t = D_t S_{t−1} + β_t k_t (v_t − (D_t S_{t−1})ᵀ p_t)ᵀ and o_t = scale · S_tᵀ q_t, with p = k and
D = 1 (DeltaNet, Yang et al., arXiv:2406.06484), e^{g_t} (Gated DeltaNet, arXiv:2412.06464) or diag(e^{g_t}) (Kimi
Delta Attention, arXiv:2510.26692); Comba (arXiv:2506.02475) erases with another p. Inside a chunk, with G the running
sum of g, the corrections u solve (I + A) U = β (V − e^G P S₀), A_{ti} = β_t e^{G_t − G_i} p_t·k_i for i < t: triangular
systems that all chunks solve at once; only S goes from chunk to chunk.
"""

import torch
from torch import Tensor

from services.fla_cpu.modules.l2norm import l2_norm
from services.fla_cpu.ops.pairs import two_products
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

CHUNK = 32  # the fastest of 16, 32 and 64 on a CPU


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
) -> Result:
    """q, k: [b, l, h, d_k], v: [b, l, h, d_v], beta: [b, l, h] → (o like v, state [b, h, d_k, d_v] or None).

    Raises ValueError for shapes that do not match and TypeError for options that are not offered.
    """
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    must_be_known("chunk_delta_rule", options)
    if use_qk_l2norm_in_kernel:
        q, k = l2_norm(working(q)), l2_norm(working(k))
    return delta_rule(q, k, k, v, beta, None, scale, Memory(initial_state, output_final_state, cu_seqlens))


def delta_rule(
    q: Tensor,
    k: Tensor,
    p: Tensor,
    v: Tensor,
    beta: Tensor | None,
    g: Tensor | None,
    scale: float | None,
    memory: Memory,
) -> Result:
    """The equation above; g: None, [b, l, h] or [b, l, h, d_k]."""
    validate_same_embedder(q, k, v, beta=beta)
    if g is not None and g.shape not in (q.shape, q.shape[:3]):
        raise ValueError(f"g must be {tuple(q.shape[:3])}, or {tuple(q.shape)}, not {tuple(g.shape)}")
    if p.shape != k.shape:
        raise ValueError(f"p must have the shape of k, {tuple(k.shape)}, not {tuple(p.shape)}")
    beta = torch.ones_like(q[..., 0]) if beta is None else beta
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    per_key = g.unsqueeze(-1) if g is not None and g.dim() == 3 else g
    return run(_whole, working(q) * factor, (k, p, v, beta.unsqueeze(-1), per_key), v, memory)


def _whole(
    q: Tensor, k: Tensor, p: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """All sequences of a batch; q comes scaled."""
    batch, length = q.shape[:2]
    size = power_of_two(length, CHUNK)
    same = p is k
    q, k, v, beta = (chunked(one, size) for one in (q, k, v, beta))
    p = k if same else chunked(p, size)
    decay = None if g is None else chunked(g, size).cumsum(-2)
    output, last = _chunks(q, k, p, v, beta, decay, state.flatten(0, 1))
    return joined(output, batch, length), last.reshape(batch, -1, *last.shape[1:])


def _chunks(
    q: Tensor, k: Tensor, p: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """[n, b·h, c, ·]: solve all chunks, pass the memory along, then read it. `decay`: running sums of g."""
    erasing = beta * p
    scores, system = two_products(q, erasing, k, decay)
    inverse = _inverse(system.tril(-1))
    end = None if decay is None else decay[..., -1:, :]
    if decay is not None and end is not None:
        since = decay.exp()
        q, erasing, k = q * since, erasing * since, k * (end - decay).exp()
    kept = None if end is None else end.exp().transpose(-1, -2)
    states, updates, last = _carry(inverse @ (beta * v), inverse @ erasing, k.transpose(-1, -2), kept, state)
    return q @ states + scores @ updates, last


def _inverse(strictly_lower: Tensor) -> Tensor:
    """(I + A)⁻¹ for every chunk."""
    identity = torch.eye(strictly_lower.shape[-1], dtype=strictly_lower.dtype, device=strictly_lower.device)
    inverse: Tensor = torch.linalg.solve_triangular(
        strictly_lower + identity, identity.expand_as(strictly_lower), upper=False, unitriangular=True
    )
    return inverse


def _carry(
    values: Tensor, erased: Tensor, keys: Tensor, kept: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The memory before each chunk, what each chunk writes, and the memory after the last.

    Slices are taken by `unbind`: the backward of an index would make a tensor of full length for every chunk.
    """
    before, updates = [], []
    decays = [None] * len(values) if kept is None else kept.unbind(0)
    for value, erase, key, decay in zip(values.unbind(0), erased.unbind(0), keys.unbind(0), decays, strict=True):
        before.append(state)
        updates.append(torch.baddbmm(value, erase, state, alpha=-1))
        state = torch.baddbmm(state if decay is None else state * decay, key, updates[-1])
    return torch.stack(before), torch.stack(updates), state
