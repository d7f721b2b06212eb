"""Element-wise gated recurrence h_t = e^{g_t} h_{t−1} + x_t (HGRN, arXiv:2311.04823)."""

import torch
from torch import Tensor

from services.engineer.fla_cpu.ops.shapes import must_be_packed, per_sequence, working

CHUNK = 16


def chunk_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor | None]:
    """x, g: [b, l, d], g the log decay → (o [b, l, d], state [b, d] or None)."""
    del options
    if x.shape != g.shape or x.dim() != 3:
        raise ValueError(f"x and g must both be [batch, length, features], not {tuple(x.shape)} and {tuple(g.shape)}")
    must_be_packed(x.shape[0], cu_seqlens)
    output, state = per_sequence(_whole, (working(x), working(g)), initial_state, cu_seqlens)
    return output.to(x.dtype), state if output_final_state else None


fused_recurrent_hgrn = chunk_hgrn


def _whole(x: Tensor, g: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    length, size = x.shape[1], min(CHUNK, max(1, x.shape[1]))
    padding = (0, 0, 0, -length % size)
    x, g = (torch.nn.functional.pad(one, padding) for one in (x, g))
    x, g = (one.reshape(one.shape[0], -1, size, one.shape[-1]) for one in (x, g))
    decay = g.cumsum(2)
    later = ~torch.ones(size, size, dtype=torch.bool, device=x.device).tril().unsqueeze(-1)
    between = (decay.unsqueeze(3) - decay.unsqueeze(2)).masked_fill(later, float("-inf")).exp()
    inside = torch.einsum("bntid,bnid->bntd", between, x)
    state = x.new_zeros(x.shape[0], x.shape[-1]) if initial is None else working(initial)
    outputs = []
    for n in range(x.shape[1]):
        output = inside[:, n] + decay[:, n].exp() * state.unsqueeze(1)
        outputs.append(output)
        state = output[:, -1]
    return torch.cat(outputs, dim=1)[:, :length], state
