"""The delta rule with and without decay, chunkwise: DeltaNet, Gated DeltaNet and Gated DeltaProduct.

S_t = D_t S_{t−1} + β_t k_t (v_t − (D_t S_{t−1})ᵀ p_t)ᵀ and o_t = scale · S_tᵀ q_t, with p = k and
D = 1 (DeltaNet, Yang et al., arXiv:2406.06484), e^{g_t} (Gated DeltaNet, arXiv:2412.06464) or diag(e^{g_t}); for the
latter and for other p see `delta_variants.py`. Inside a chunk, with G the running sum of g, the corrections u solve
(I + A) U = β (V − e^G P S₀), A_{ti} = β_t e^{G_t − G_i} p_t·k_i for i < t. These triangular systems are solved for all
chunks at once; only S is passed between chunks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from services.fla_cpu.norms import l2_norm
from services.fla_cpu.shapes import (
    Memory,
    Result,
    chunk_size,
    decayed_product_pair,
    merge_chunks,
    require_known,
    require_same_shape,
    run,
    split_chunks,
    upcast,
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
    **options: object,
) -> Result:
    """q, k: [b, l, h, d_k], v: [b, l, h, d_v], beta: [b, l, h] → (o like v, state [b, h, d_k, d_v] or None)."""
    require_known("chunk_delta_rule", options)
    if use_qk_l2norm_in_kernel:
        q, k = l2_norm(upcast(q)), l2_norm(upcast(k))
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
    require_same_shape(q, k, v, beta=beta)
    if g is not None and g.shape not in (q.shape, q.shape[:3]):
        raise ValueError(f"g must be {tuple(q.shape[:3])}, or {tuple(q.shape)}, not {tuple(g.shape)}")
    if p.shape != k.shape:
        raise ValueError(f"p must have the shape of k, {tuple(k.shape)}, not {tuple(p.shape)}")
    beta = torch.ones_like(q[..., 0]) if beta is None else beta
    per_key = g.unsqueeze(-1) if g is not None and g.dim() == 3 else g
    return run(_chunkwise, q, (k, p, v, beta.unsqueeze(-1), per_key), v, scale, memory)


def _chunkwise(
    q: Tensor, k: Tensor, p: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """All sequences of a batch; q is scaled already."""
    batch, length = q.shape[:2]
    size = chunk_size(length, CHUNK)
    p_is_k = p is k
    q, k, v, beta = (split_chunks(tensor, size) for tensor in (q, k, v, beta))
    p = k if p_is_k else split_chunks(p, size)
    decay = None if g is None else split_chunks(g, size).cumsum(-2)
    output, last = _chunks(q, k, p, v, beta, decay, state.flatten(0, 1))
    return merge_chunks(output, batch, length), last.reshape(batch, -1, *last.shape[1:])


def _chunks(
    q: Tensor, k: Tensor, p: Tensor, v: Tensor, beta: Tensor, decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve all chunks [n, b·h, c, ·], pass the states along, and read them. `decay`: running sums of g."""
    erasing = beta * p
    scores, system = decayed_product_pair(q, erasing, k, decay)
    retained = None
    if decay is not None:
        end, since = decay[..., -1:, :], decay.exp()
        q, erasing, k = q * since, erasing * since, k * (end - decay).exp()
        retained = end.exp().transpose(-1, -2)
    result: tuple[Tensor, Tensor] = _Chunks.apply(  # type: ignore[no-untyped-call]
        q, scores, system, beta * v, erasing, k, retained, state
    )
    return result


class _Chunks(torch.autograd.Function):
    """Corrections U = (I + A)⁻¹ (V − E S), states S' = D S + Kᵀ U and outputs Q S + P U of all chunks.

    Autograd would store four times as many tensors. There is no second derivative, as in fla's kernels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        scores: Tensor,
        system: Tensor,
        values: Tensor,
        erasing: Tensor,
        keys: Tensor,
        retained: Tensor | None,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """q, erasing, keys: [n, b·h, c, d_k]; scores P, lower triangular, and system A, read below the diagonal only:
        [n, b·h, c, c]; values: [n, b·h, c, d_v]; retained D: [n, b·h, 1 or d_k, 1]; state: [b·h, d_k, d_v].
        """
        identity = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device).expand_as(system)
        inverse = torch.linalg.solve_triangular(system, identity, upper=False, unitriangular=True)
        solved = inverse @ torch.cat([values, erasing], dim=-1)
        updates, erased = solved[..., : values.shape[-1]], solved[..., values.shape[-1] :]
        updates = updates.clone()
        states = torch.empty((len(q), *state.shape), dtype=state.dtype, device=state.device)
        keys_across = keys.transpose(-1, -2)
        for index in range(len(q)):
            states[index] = state
            updates[index].baddbmm_(erased[index], state, alpha=-1)
            before = state if retained is None else state * retained[index]
            state = torch.baddbmm(before, keys_across[index], updates[index])
        output = (scores @ updates).flatten(0, 1).baddbmm_(q.flatten(0, 1), states.flatten(0, 1))
        ctx.save_for_backward(q, scores, inverse, solved, keys, retained, states, updates)
        return output.view_as(updates), state

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, d_output: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all inputs, in the precision of the forward pass even under autocast."""
        with torch.autocast(d_output.device.type, enabled=False):
            q, scores, inverse, solved, keys, retained, states, updates = ctx.saved_tensors
            d_output = d_output.contiguous()
            width = updates.shape[-1]
            d_solved = torch.empty_like(solved)
            d_updates, across = scores.transpose(-1, -2) @ d_output, q.transpose(-1, -2) @ d_output
            erased_across = solved[..., width:].transpose(-1, -2)
            later = torch.empty_like(states)
            for index in reversed(range(len(q))):
                later[index] = d_state
                d_updates[index].baddbmm_(keys[index], d_state)
                across[index].add_(d_state if retained is None else d_state * retained[index])
                d_state = torch.baddbmm(across[index], erased_across[index], d_updates[index], alpha=-1)
            d_solved[..., :width] = d_updates
            torch.matmul(d_updates, states.transpose(-1, -2), out=d_solved[..., width:]).neg_()
            d_right = inverse.transpose(-1, -2) @ d_solved
            d_system = (d_right @ solved.transpose(-1, -2)).neg_().tril_(-1)
            d_retained = (
                None if retained is None else (states * later).sum(-1, keepdim=True).sum_to_size(retained.shape)
            )
            return (
                d_output @ states.transpose(-1, -2),
                d_output @ updates.transpose(-1, -2),
                d_system,
                d_right[..., :width],
                d_right[..., width:],
                updates @ later.transpose(-1, -2),
                d_retained,
                d_state,
            )


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
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **options: object,
) -> Result:
    """q, k: [b, l, h, d_k], v: [b, l, h_v, d_v] with h_v a multiple of h; log decay g (≤ 0) and beta: [b, l, h_v].

    With `use_gate_in_kernel` g is raw and the decay is −e^{A_log} · softplus(g + dt_bias).
    → (o like v, state [b, h_v, d_k, d_v] or None)
    """
    require_known("chunk_gated_delta_rule", options)
    q, k = prepare_heads(q, k, v, use_qk_l2norm_in_kernel)
    beta = write_strength(beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    g = _decay(g, A_log, dt_bias) if use_gate_in_kernel else g
    if g.shape != v.shape[:3]:
        raise ValueError(f"g must be [batch, length, heads] = {tuple(v.shape[:3])}, not {tuple(g.shape)}")
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return delta_rule(q, k, k, v, beta, g, scale, memory)


chunk_gdn = chunk_gated_delta_rule


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """As `chunk_gated_delta_rule`; gk: [b, l, h_v, d_k] decays each key feature, in addition to g."""
    require_known("fused_recurrent_gated_delta_rule", options | {"gv": gv})
    q, k = prepare_heads(q, k, v, use_qk_l2norm_in_kernel)
    beta = write_strength(beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    if g is not None and use_gate_in_kernel:
        g = _decay(g, A_log, dt_bias)
    if gk is not None:
        g = gk if g is None else gk + g.unsqueeze(-1)
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return delta_rule(q, k, k, v, beta, g, scale, memory)


fused_recurrent_gdn = fused_recurrent_gated_delta_rule


def chunk_gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    num_householder: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """Several steps of the delta rule for each token (DeltaProduct, arXiv:2502.10297), after one decay.

    q: [b, l, h, d_k]; k, v and beta: [b, l · num_householder, h, …], the steps of a token side by side; g: None or
    [b, l, h]; cu_seqlens counts tokens, not steps.
    """
    require_known("chunk_gated_delta_product", options)
    steps = num_householder
    if k.shape[1] != q.shape[1] * steps or (g is not None and g.shape != q.shape[:3]):
        raise ValueError(
            f"k, v and beta must have {steps} steps for each of the {q.shape[1]} tokens of q, and g one: "
            f"k is {tuple(k.shape)} and g {None if g is None else tuple(g.shape)}"
        )
    if use_qk_l2norm_in_kernel:
        q, k = l2_norm(upcast(q)), l2_norm(upcast(k))

    def at_step(tensor: Tensor, step: int) -> Tensor:
        """The tensor at this step of each token, and zeros at the others."""
        zeros = torch.zeros_like(tensor)
        return torch.stack([tensor if index == step else zeros for index in range(steps)], dim=2).flatten(1, 2)

    output, state = delta_rule(
        at_step(q, steps - 1), k, k, v, beta, None if g is None else at_step(g, 0), scale,
        Memory(initial_state, output_final_state, None if cu_seqlens is None else steps * cu_seqlens),
    )  # fmt: skip
    return output[:, steps - 1 :: steps], state


def prepare_heads(q: Tensor, k: Tensor, v: Tensor, normalise: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys, normalised if requested, and repeated for the value heads that share them."""
    if normalise:
        q, k = l2_norm(upcast(q)), l2_norm(upcast(k))
    if q.dim() != 4 or v.dim() != 4 or q.shape[2] == v.shape[2]:
        return q, k
    if v.shape[2] % q.shape[2]:
        raise ValueError(f"the heads of v ({v.shape[2]}) must be a multiple of the heads of q and k ({q.shape[2]})")
    shared = v.shape[2] // q.shape[2]
    return q.repeat_interleave(shared, dim=2), k.repeat_interleave(shared, dim=2)


def write_strength(beta: Tensor | None, logits: bool, up_to_two: bool) -> Tensor | None:
    if up_to_two and not logits:
        raise ValueError("allow_neg_eigval needs use_beta_sigmoid_in_kernel; otherwise double beta yourself")
    if beta is None or not logits:
        return beta
    return torch.sigmoid(upcast(beta)) * (2.0 if up_to_two else 1.0)


def _decay(raw: Tensor, A_log: Tensor | None, dt_bias: Tensor | None) -> Tensor:
    if A_log is None:
        raise ValueError("use_gate_in_kernel needs A_log, one number per head")
    shifted = upcast(raw) if dt_bias is None else upcast(raw) + upcast(dt_bias)
    return -upcast(A_log).exp() * F.softplus(shifted)
