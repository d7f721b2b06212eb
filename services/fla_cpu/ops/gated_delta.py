"""The delta rule's gated relatives by fla's names: Gated DeltaNet, Kimi Delta Attention and Comba (see delta.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu.modules.l2norm import l2_norm
from services.fla_cpu.ops.delta import delta_rule
from services.fla_cpu.ops.shapes import Memory, Result, must_be_known, working


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
    cu_seqlens_cpu: Tensor | None = None,
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
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    must_be_known("chunk_gated_delta_rule", options)
    q, k = _prepared(q, k, v, use_qk_l2norm_in_kernel)
    beta = _strength(beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    g = _decay(g, A_log, dt_bias) if use_gate_in_kernel else g
    if g.shape != v.shape[:3]:
        raise ValueError(f"g must be [batch, length, heads] = {tuple(v.shape[:3])}, not {tuple(g.shape)}")
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return delta_rule(q, k, k, v, beta, g, scale, memory)


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
    must_be_known("fused_recurrent_gated_delta_rule", options | {"gv": gv})
    q, k = _prepared(q, k, v, use_qk_l2norm_in_kernel)
    beta = _strength(beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    if g is not None and use_gate_in_kernel:
        g = _decay(g, A_log, dt_bias)
    if gk is not None:
        g = gk if g is None else gk + g.unsqueeze(-1)
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return delta_rule(q, k, k, v, beta, g, scale, memory)


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
    *,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> Result:
    """As `chunk_gated_delta_rule` with one log decay for each key feature, g: [b, l, h_v, d_k]."""
    must_be_known("chunk_kda", options)
    q, k = _prepared(q, k, v, use_qk_l2norm_in_kernel)
    if g.shape != k.shape:
        raise ValueError(f"g must have the shape of k, {tuple(k.shape)}, not {tuple(g.shape)}")
    beta_strength = _strength(beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    memory = Memory(initial_state, output_final_state, cu_seqlens, state_v_first)
    return delta_rule(q, k, k, v, beta_strength, g, scale, memory)


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
    """As `chunk_gated_delta_rule`, erasing with p: [b, l, h, d_k] in the place of k."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    if use_qk_l2norm_in_kernel:
        q, k, p = (l2_norm(working(one)) for one in (q, k, p))
    return delta_rule(q, k, p, v, beta, g, scale, Memory(initial_state, output_final_state, cu_seqlens))


def _prepared(q: Tensor, k: Tensor, v: Tensor, normalise: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys of unit length if so wanted, each repeated for the value heads that share it."""
    if normalise:
        q, k = l2_norm(working(q)), l2_norm(working(k))
    if q.dim() != 4 or v.dim() != 4 or q.shape[2] == v.shape[2]:
        return q, k
    if v.shape[2] % q.shape[2]:
        raise ValueError(f"the heads of v ({v.shape[2]}) must be a multiple of the heads of q and k ({q.shape[2]})")
    shared = v.shape[2] // q.shape[2]
    return q.repeat_interleave(shared, dim=2), k.repeat_interleave(shared, dim=2)


def _strength(beta: Tensor | None, logits: bool, up_to_two: bool) -> Tensor | None:
    if up_to_two and not logits:
        raise ValueError("allow_neg_eigval needs use_beta_sigmoid_in_kernel; otherwise double beta yourself")
    if beta is None or not logits:
        return beta
    return torch.sigmoid(working(beta)) * (2.0 if up_to_two else 1.0)


def _decay(raw: Tensor, A_log: Tensor | None, dt_bias: Tensor | None) -> Tensor:
    if A_log is None:
        raise ValueError("use_gate_in_kernel needs A_log, one number per head")
    shifted = working(raw) if dt_bias is None else working(raw) + working(dt_bias)
    return -working(A_log).exp() * F.softplus(shifted)
