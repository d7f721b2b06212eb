"""What all operators share: checking, precision, chunks and packed sequences.

Tensors are laid out as in flash-linear-attention: [batch, length, heads, features]; inside they are
[chunks, batch · heads, chunk, features], so that one batched product serves all chunks at once and the loop over chunks
takes contiguous slices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

MILD = 60.0
"""Nats of decay inside a chunk; the largest float32 is 88."""
Recurrence = Callable[..., tuple[Tensor, Tensor]]
Result = tuple[Tensor, Tensor | None]

WITHOUT_EFFECT = frozenset({"chunk_indices", "chunk_size", "cu_seqlens_cpu", "disable_recompute", "use_graph"})
"""Options of fla's kernels which change their speed and not what they compute."""


@dataclass(frozen=True)
class Memory:
    """How one call treats the state: where it begins, whether it is returned, and where packed sequences lie."""

    initial: Tensor | None = None
    wanted: bool = False
    boundaries: Tensor | None = None
    values_first: bool = False  # [b, h, d_v, d_k] outside instead of [b, h, d_k, d_v]


def require_known(function: str, options: Mapping[str, object]) -> None:
    """TypeError naming the first option that would change the result and is not offered."""
    for name, value in options.items():
        if name == "head_first":
            raise TypeError(
                f"{function}: head_first was removed from fla; lay tensors out as [batch, length, heads, d]"
            )
        if name not in WITHOUT_EFFECT and value is not None and value is not False:
            raise TypeError(f"{function}: the option {name}={value!r} is not available without CUDA; leave it out")


def require_same_shape(q: Tensor, k: Tensor, v: Tensor, **others: Tensor | None) -> None:
    """ValueError with the shapes where tensors do not belong together."""
    if q.dim() != 4 or k.shape != q.shape or v.dim() != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"q and k must be [batch, length, heads, d_k] and v [batch, length, heads, d_v], "
            f"not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != q.shape[:3]:
            raise ValueError(f"{name} must be [batch, length, heads] = {tuple(q.shape[:3])}, not {tuple(tensor.shape)}")


def require_packed(batch: int, length: int, boundaries: Tensor | None) -> None:
    """ValueError unless packed sequences lie in a batch of one and their boundaries cover it."""
    if boundaries is None:
        return
    if batch != 1:
        raise ValueError(f"with cu_seqlens the batch must be 1, not {batch}: lay the sequences end to end")
    if int(boundaries[0]) != 0 or int(boundaries[-1]) != length:
        raise ValueError(f"cu_seqlens must go from 0 to the length, {length}, not {boundaries.tolist()}")


def working(tensor: Tensor) -> Tensor:
    """In the precision of computing: float32, or float64 as given."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def power_of_two(length: int, most: int) -> int:
    """The chunk for a sequence: `most`, or the next power of two of a shorter length."""
    return min(most, 1 << (max(1, length) - 1).bit_length())


def chunked(tensor: Tensor, size: int) -> Tensor:
    """[b, l, h, …] → [n, b·h, size, …], padded with zeros at the end."""
    padding = -tensor.shape[1] % size
    if padding:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, padding))
    apart = tensor.reshape(tensor.shape[0], -1, size, *tensor.shape[2:])
    return apart.movedim(1, 0).movedim(3, 2).flatten(1, 2)


def joined(tensor: Tensor, batch: int, length: int) -> Tensor:
    """[n, b·h, size, d] → [b, length, h, d]: the inverse of `chunked`."""
    apart = tensor.reshape(len(tensor), batch, -1, *tensor.shape[2:])
    return apart.movedim(2, 3).movedim(0, 1).flatten(1, 2)[:, :length]


def run(recurrence: Recurrence, q: Tensor, rest: Sequence[Tensor | None], like: Tensor, memory: Memory) -> Result:
    """`recurrence(q, *rest, state [b, h, d_k, d_v])` in float32 whatever autocast says.

    q and the rest: [b, l, h, …] or None; `like` the values [b, l, h, d_v] → (o like the values, state or None).
    """
    require_packed(like.shape[0], like.shape[1], memory.boundaries)
    sequences = like.shape[0] if memory.boundaries is None else len(memory.boundaries) - 1
    state = _initial(memory, (sequences, like.shape[2], q.shape[-1], like.shape[-1]), like)
    with torch.autocast(like.device.type, enabled=False):
        inputs = [None if one is None else working(one) for one in (q, *rest)]
        output, state = per_sequence(recurrence, inputs, state, memory)
    state = state.transpose(-1, -2).contiguous() if memory.values_first else state
    return output.to(like.dtype), state if memory.wanted else None


def _initial(memory: Memory, shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    if memory.initial is None:
        return torch.zeros(shape, device=like.device, dtype=working(like[:0]).dtype)
    state = memory.initial.transpose(-1, -2) if memory.values_first else memory.initial
    if state.shape != shape:
        raise ValueError(f"initial_state must be [sequences, heads, d_k, d_v] = {shape}, not {tuple(state.shape)}")
    return working(state).to(working(like[:0]).dtype)


def per_sequence(
    recurrence: Recurrence, inputs: Sequence[Tensor | None], state: Tensor, memory: Memory
) -> tuple[Tensor, Tensor]:
    """`recurrence(*inputs, state)`; packed sequences one after the other, their states in the place of the batch."""
    if memory.boundaries is None:
        return recurrence(*inputs, state)
    outputs, states = [], []
    for place, (start, end) in enumerate(pairwise(memory.boundaries.tolist())):
        part = [None if one is None else one[:, start:end] for one in inputs]
        output, last = recurrence(*part, state[place : place + 1])
        outputs.append(output)
        states.append(last)
    return torch.cat(outputs, dim=1), torch.cat(states, dim=0)


def decayed_products(q: Tensor, k: Tensor, decay: Tensor | None) -> Tensor:
    """q, k: […, c, d]; decay: None, […, c, 1] or […, c, d], running sums; c a power of two → […, c, c], zero above.

    P_{ti} = Σ_d q_{td} k_{id} e^{G_{td} − G_{id}} for i ≤ t, with G the running sum of the log decays. One decay per
    head needs the differences of all pairs only, none of which is positive. Mild decays per feature allow one product
    of queries since the start of the chunk with keys until it. Strong ones, whose inverse is infinite, are taken from
    the middle of the chunk, halves by halves (the queries of the second half since the middle, the keys of the first
    half until it), which needs no [c, c, d] tensor.
    """
    if decay is None:
        return (q @ k.transpose(-1, -2)).tril()
    if decay.shape[-1] == 1:
        return (q @ k.transpose(-1, -2)) * between(decay)
    if _is_mild(decay):
        return ((q * decay.exp()) @ (k * (-decay).exp()).transpose(-1, -2)).tril()
    return _by_halves(q, k, decay)


def two_products(q: Tensor, p: Tensor, k: Tensor, decay: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same of q and of p with k, for less than twice the work; above its diagonal the second is undefined."""
    if decay is not None and decay.shape[-1] > 1:
        if not _is_mild(decay):
            first, second = _by_halves(torch.stack([q, p]), k, decay).unbind(0)
            return first, second
        since, until = decay.exp(), (-decay).exp()  # the gradient of a quotient would divide twice and leave the range
        q, p, k, decay = q * since, p * since, k * until, None
    transposed = k.transpose(-1, -2)
    if decay is None:
        return (q @ transposed).tril(), p @ transposed
    weights = between(decay)
    return (q @ transposed) * weights, (p @ transposed) * weights


def _is_mild(decay: Tensor) -> bool:
    """Whether all running sums are far from those whose exponential leaves float32's range. False for NaN."""
    return bool(decay.detach().abs().amax() < MILD)


def between(decay: Tensor) -> Tensor:
    """[…, c, c]: what is left at row t of what was written at column i ≤ t; zero above the diagonal."""
    lower = torch.ones(decay.shape[-2], decay.shape[-2], dtype=torch.bool, device=decay.device).tril()
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
