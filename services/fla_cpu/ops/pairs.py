"""Products of queries with earlier keys of the same chunk, each weakened by the decay between the two.

P_{ti} = Σ_d q_{td} k_{id} e^{G_{td} − G_{id}} for i ≤ t, with G the running sum of the log decays. No exponent is ever
positive, so that the strongest decay gives zero and not infinity: one decay per head needs the differences of all pairs
only; decays per feature are taken from the middle of the chunk, halves by halves (the queries of the second half since
the middle, the keys of the first half until it), which needs no [c, c, d] tensor.
"""

import torch
from torch import Tensor


def decayed_products(q: Tensor, k: Tensor, decay: Tensor | None) -> Tensor:
    """q, k: […, c, d]; decay: None, […, c, 1] or […, c, d], running sums; c a power of two → […, c, c], zero above."""
    if decay is not None and decay.shape[-1] > 1:
        return _by_halves(q, k, decay)
    return (q @ k.transpose(-1, -2)) * between(decay, q)


def two_products(q: Tensor, p: Tensor, k: Tensor, decay: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same of q and of p with k, for less than twice the work."""
    if decay is not None and decay.shape[-1] > 1:
        first, second = _by_halves(torch.stack([q, p]), k, decay).unbind(0)
        return first, second
    weights, transposed = between(decay, q), k.transpose(-1, -2)
    return (q @ transposed) * weights, (p @ transposed) * weights


def between(decay: Tensor | None, like: Tensor) -> Tensor:
    """[…, c, c]: what is left at row t of what was written at column i ≤ t; zero above the diagonal."""
    lower = torch.ones(like.shape[-2], like.shape[-2], dtype=torch.bool, device=like.device).tril()
    if decay is None:
        return lower.to(like.dtype)
    return (decay - decay.transpose(-1, -2)).masked_fill(~lower, float("-inf")).exp()


def _by_halves(q: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    size = q.shape[-2]
    if size == 1:
        return (q * k).sum(-1, keepdim=True)
    q, k, decay = (_halved(one) for one in (q, k, decay))
    (_, late_q), (early_k, _), (early, late) = q.unbind(-3), k.unbind(-3), decay.unbind(-3)
    middle = early[..., -1:, :]
    across = (late_q * (late - middle).exp()) @ (early_k * (middle - early).exp()).transpose(-1, -2)
    first, second = _by_halves(q, k, decay).unbind(-3)
    above = torch.cat([first, torch.zeros_like(first)], dim=-1)
    return torch.cat([above, torch.cat([across, second], dim=-1)], dim=-2)


def _halved(tensor: Tensor) -> Tensor:
    """[…, c, d] → […, 2, c/2, d]."""
    return tensor.reshape(*tensor.shape[:-2], 2, -1, tensor.shape[-1])
