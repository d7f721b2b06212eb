"""Variants of the delta rule that erase with other keys than they write, or decay each key feature by itself.

Comba (arXiv:2506.02475), Kimi Delta Attention (arXiv:2510.26692), Gated DeltaNet-2, RWKV-7 (arXiv:2503.14456) and
transitions that are diagonal, or the identity, plus low rank, by the chunks of `delta.py`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu.delta import delta_rule, prepare_heads, write_strength
from services.fla_cpu.norms import l2_norm
from services.fla_cpu.shapes import Memory, Result, require_known, upcast

STRONGEST_DECAY = -60.0  # that `chunk_comba` can take back; what a stronger one leaves is nothing in float32


def chunk_comba(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> Result:
    """As `chunk_gated_delta_rule`, erasing with p: [b, l, h, d_k] instead of k, and from the state before it decays.

    So do fla's kernels; fla's PyTorch reference decays first.
    """
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    if use_qk_l2norm_in_kernel:
        q, k, p = (l2_norm(upcast(tensor)) for tensor in (q, k, p))
    undecayed = upcast(p) * torch.exp(-upcast(g).clamp(min=STRONGEST_DECAY)).unsqueeze(-1)
    return delta_rule(q, k, undecayed, v, beta, g, scale, Memory(initial_state, output_final_state, cu_seqlens))


def fused_recurrent_comba(
    q: Tensor, k: Tensor, p: Tensor | None, v: Tensor, g: Tensor, beta: Tensor | None = None, *rest: Any, **options: Any
) -> Result:
    """As `chunk_comba`, with p before v; None stands for k."""
    return chunk_comba(q, k, v, k if p is None else p, g, beta, *rest, **options)


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    *,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **options: object,
) -> Result:
    """As `chunk_gated_delta_rule` with one log decay for each key feature, g: [b, l, h_v, d_k].

    With `use_gate_in_kernel` the decay is `fused_kda_gate` of g.
    """
    require_known("chunk_kda", options)
    q, k = prepare_heads(q, k, v, use_qk_l2norm_in_kernel)
    g = fused_kda_gate(g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    if g.shape != k.shape:
        raise ValueError(f"g must have the shape of k, {tuple(k.shape)}, not {tuple(g.shape)}")
    beta_strength = write_strength(beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return delta_rule(q, k, k, v, beta_strength, g, scale, memory)


def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Result:
    """As `chunk_kda`, with the parameters of the gate before the other options."""
    return chunk_kda(q, k, v, g, beta, *rest, A_log=A_log, dt_bias=dt_bias, **options)


def fused_kda_gate(
    g: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    lower_bound: float | None = None,
    output_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Log decays −e^{A_log} · softplus(g + dt_bias), or lower_bound · σ(e^{A_log} · (g + dt_bias)) with a lower bound.

    g: […, h, d]; A_log: h numbers, 0 by default with a lower bound; dt_bias: h · d numbers.
    """
    if A_log is None and lower_bound is None:
        raise ValueError("the gate needs A_log, one number per head, or a lower_bound")
    shifted = upcast(g) if dt_bias is None else upcast(g) + upcast(dt_bias).reshape(g.shape[-2:])
    rate = 1.0 if A_log is None else upcast(A_log).reshape(-1, 1).exp()
    decay = -rate * F.softplus(shifted) if lower_bound is None else lower_bound * torch.sigmoid(rate * shifted)
    return decay if decay.dtype == torch.float64 else decay.to(output_dtype)


def chunk_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    *,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """As `chunk_kda` with an erase gate per key feature, b like k, and a write gate per value feature, w like v."""
    require_known("chunk_gdn2", options)
    q, k = prepare_heads(q, k, v, use_qk_l2norm_in_kernel)
    g = fused_kda_gate(g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    if g.shape != k.shape or b.shape != k.shape or w.shape != v.shape:
        raise ValueError("g and b must have the shape of k, and w that of v")
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return delta_rule(q, k, b * k, w * v, None, g, scale, memory)


def fused_recurrent_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Result:
    """As `chunk_gdn2`, with the parameters of the gate before the other options."""
    return chunk_gdn2(q, k, v, g, b, w, *rest, A_log=A_log, dt_bias=dt_bias, **options)


def chunk_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor | None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    lower_bound: float | None = None,
    **options: object,
) -> Result:
    """S_t = diag(e^{gk_t}) S_{t−1} + b_t (S_{t−1}ᵀ a_t)ᵀ + k_t v_tᵀ and o_t = scale · S_tᵀ q_t.

    q, k, a, b, gk: [b, l, h, d_k], v: [b, l, h, d_v] → (o like v, state [b, h, d_k, d_v] or None). Each token takes two
    steps of the delta rule: the first decays and erases with p = −a e^{−gk}, which reads the state before its decay,
    and the second writes. e^{−gk} overflows for decays below e^{−80}.
    """
    del lower_bound  # fla avoids slow products with it
    require_known("chunk_dplr_delta_rule", options)
    if not q.shape == k.shape == a.shape == b.shape or (gk is not None and gk.shape != k.shape):
        raise ValueError(f"queries, keys, decays, a and b must have one shape, {tuple(k.shape)}")
    dtype = v.dtype
    q, k, v, a, b = (upcast(tensor) for tensor in (q, k, v, a, b))

    def interleave(erase: Tensor, write: Tensor) -> Tensor:
        return torch.stack([erase, write], dim=2).flatten(1, 2)

    zeros = torch.zeros_like(k)
    output, state = delta_rule(
        interleave(zeros, q),
        interleave(b, k),
        interleave(-a if gk is None else -a * (-upcast(gk)).exp(), zeros),
        interleave(torch.zeros_like(v), v),
        None,
        None if gk is None else interleave(upcast(gk), zeros),
        scale,
        Memory(initial_state, output_final_state, None if cu_seqlens is None else 2 * cu_seqlens),
    )
    return output[:, 1::2].to(dtype), state


def chunk_iplr_delta_rule(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, *rest: Any, **options: Any) -> Result:
    """`chunk_dplr_delta_rule` with the identity in place of the diagonal."""
    return chunk_dplr_delta_rule(q, k, v, a, b, None, *rest, **options)


def chunk_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float = 1.0,
    *rest: Any,
    **options: Any,
) -> Result:
    """RWKV-7: `chunk_dplr_delta_rule` with queries r, log decays w and a scale of 1 by default."""
    return chunk_dplr_delta_rule(r, k, v, a, b, w, scale, *rest, **options)


def fused_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = True,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """As `chunk_rwkv7` with other defaults: the scale is 1/√d_k, and the final state is returned."""
    return chunk_dplr_delta_rule(r, k, v, a, b, w, scale, initial_state, output_final_state, cu_seqlens)


def fused_mul_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    kk: Tensor,
    a: Tensor,
    scale: float | None = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """`chunk_rwkv7` that erases with −kk and writes back with kk · a, which is a rate here."""
    require_known("fused_mul_recurrent_rwkv7", {"reverse": reverse})
    return chunk_dplr_delta_rule(r, k, v, -kk, kk * a, w, scale, initial_state, output_final_state, cu_seqlens)
