"""What all operators share: checking, precision, chunks and packed sequences.

Tensors are laid out as in flash-linear-attention: [batch, length, heads, features]; inside they are
[batch, heads, chunks, chunk, features], so that one batched product serves all chunks at once.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Recurrence = Callable[..., tuple[Tensor, Tensor]]


def working(tensor: Tensor) -> Tensor:
    """In the precision of computing: float32, or float64 as given."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def chunked(tensor: Tensor, size: int) -> Tensor:
    """[b, l, h, …] → [b, h, n, size, …], padded with zeros at the end."""
    padding = -tensor.shape[1] % size
    if padding:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, padding))
    return tensor.reshape(tensor.shape[0], -1, size, *tensor.shape[2:]).movedim(3, 1)


def joined(tensor: Tensor, length: int) -> Tensor:
    """[b, h, n, size, d] → [b, length, h, d]: the inverse of `chunked`."""
    return tensor.movedim(1, 3).flatten(1, 2)[:, :length]


def must_match(q: Tensor, k: Tensor, v: Tensor, **others: Tensor | None) -> None:
    """ValueError with the shapes where tensors do not belong together."""
    if q.dim() != 4 or k.shape != q.shape or v.dim() != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"q and k must be [batch, length, heads, d_k] and v [batch, length, heads, d_v], "
            f"not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    for name, tensor in others.items():
        if tensor is not None and tensor.shape[:3] != q.shape[:3]:
            raise ValueError(
                f"{name} must begin with [batch, length, heads] = {tuple(q.shape[:3])}, not {tuple(tensor.shape)}"
            )


def state_of(initial: Tensor | None, like: Tensor, keys: int, values: int) -> Tensor:
    """The memory before the first token, [b, h, keys, values]."""
    if initial is not None:
        return working(initial)
    return like.new_zeros(like.shape[0], like.shape[1], keys, values)


def per_sequence(
    function: Recurrence, inputs: Sequence[Tensor | None], initial: Tensor | None, boundaries: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`function(*inputs, initial)`; packed sequences (batch 1, `boundaries` as in cu_seqlens) one after the other.

    The states of packed sequences are stacked in the place of the batch.
    """
    if boundaries is None:
        return function(*inputs, initial)
    outputs, states = [], []
    for place, (start, end) in enumerate(pairwise(boundaries.tolist())):
        part = [None if one is None else one[:, start:end] for one in inputs]
        output, state = function(*part, None if initial is None else initial[place : place + 1])
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs, dim=1), torch.cat(states, dim=0)


def must_be_packed(batch: int, boundaries: Tensor | None) -> None:
    """Packed sequences lie in a batch of one."""
    if boundaries is not None and batch != 1:
        raise ValueError(f"with cu_seqlens the batch must be 1, not {batch}: lay the sequences end to end")
