"""Element-wise gated recurrence h_t = e^{g_t} h_{t−1} + x_t (HGRN, arXiv:2311.04823)."""

import torch
from torch import Tensor

from services.fla_cpu.ops.shapes import Memory, must_be_packed, per_sequence, working


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
    must_be_packed(x.shape[0], x.shape[1], cu_seqlens)
    sequences = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    shape = (sequences, x.shape[2])
    state = working(x).new_zeros(shape) if initial_state is None else working(initial_state)
    if state.shape != shape:
        raise ValueError(f"initial_state must be [sequences, features] = {shape}, not {tuple(state.shape)}")
    output, last = per_sequence(_whole, (working(x), working(g)), state, Memory(boundaries=cu_seqlens))
    return output.to(x.dtype), last if output_final_state else None


fused_recurrent_hgrn = chunk_hgrn


def _whole(x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """By doubling: after the step s each position holds its last 2s inputs and their decay; log₂ l steps in all."""
    decay, step = g.exp(), 1
    x = torch.cat([state.unsqueeze(1), x], dim=1)
    decay = torch.cat([torch.ones_like(decay[:, :1]), decay], dim=1)
    while step < x.shape[1]:
        x = torch.cat([x[:, :step], torch.addcmul(x[:, step:], decay[:, step:], x[:, :-step])], dim=1)
        decay = torch.cat([decay[:, :step], decay[:, step:] * decay[:, :-step]], dim=1)
        step *= 2
    return x[:, 1:], x[:, -1]
