"""The step back in time: δ_t = x_{t−1} − x_t, as RWKV mixes tokens with their predecessors."""

import torch
from torch import Tensor


def token_shift(
    x: Tensor,
    cu_seqlens: Tensor | None = None,
    cache: Tensor | None = None,
    output_cache: bool = False,
    **options: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """[b, l, d] → [b, l, d]; before the first token of a sequence lies zero, or the `cache` [b, d]."""
    del options
    before = torch.zeros_like(x[:, :1]) if cache is None else cache.reshape(x.shape[0], 1, -1).to(x.dtype)
    shifted = torch.cat([before, x[:, :-1]], dim=1)
    if cu_seqlens is not None:
        first = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        first[cu_seqlens[:-1]] = True
        shifted = shifted.masked_fill(first[None, :, None], 0.0)
    delta = shifted - x
    return (delta, x[:, -1:]) if output_cache else delta
