"""Common code of the operators: validation, precision, chunks, packed sequences and their indices.

Tensors have fla's layout, [batch, length, heads, features]. Internally they are [chunks, batch · heads, chunk,
features], so that all chunks are computed by one batched product and the loop over chunks takes contiguous slices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

MILD = 60.0
"""Limit on nats of decay inside a chunk; e^88 is the largest float32."""
Recurrence = Callable[..., tuple[Tensor, Tensor]]
Result = tuple[Tensor, Tensor | None]

WITHOUT_EFFECT = frozenset(
    {"chunk_indices", "chunk_size", "cu_seqlens_cpu", "disable_recompute", "safe_gate", "use_graph"}
)
"""Options of fla's kernels that do not change their results."""


@dataclass(frozen=True)
class Memory:
    """The state's options of a call: its initial value, whether it is returned, and boundaries of packed sequences."""

    initial: Tensor | None = None
    return_final: bool = False
    boundaries: Tensor | None = None
    value_dim_first: bool = False  # the caller's layout is [b, h, d_v, d_k] instead of [b, h, d_k, d_v]


def require_known(function: str, options: Mapping[str, object]) -> None:
    """Raises TypeError for an unsupported option that would change the result."""
    for name, value in options.items():
        if name == "head_first":
            raise TypeError(
                f"{function}: head_first was removed from fla; leave it out, and lay tensors out as "
                "[batch, length, heads, d]"
            )
        if name not in WITHOUT_EFFECT and value is not None and value is not False:
            option = name if isinstance(value, Tensor) else f"{name}={value!r}"
            raise TypeError(f"{function}: the option {option} is not available without CUDA; leave it out")


def require_same_shape(q: Tensor, k: Tensor, v: Tensor, **others: Tensor | None) -> None:
    """Raises ValueError if the shapes do not match."""
    if q.dim() != 4 or k.shape != q.shape or v.dim() != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"q and k must be [batch, length, heads, d_k] and v [batch, length, heads, d_v], "
            f"not {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != q.shape[:3]:
            raise ValueError(f"{name} must be [batch, length, heads] = {tuple(q.shape[:3])}, not {tuple(tensor.shape)}")


def require_packed(batch: int, length: int, boundaries: Tensor | None) -> None:
    """Raises ValueError unless packed sequences are in a batch of one that their boundaries cover."""
    if boundaries is None:
        return
    if batch != 1:
        raise ValueError(f"with cu_seqlens the batch must be 1, not {batch}: lay the sequences end to end")
    if int(boundaries[0]) != 0 or int(boundaries[-1]) != length:
        raise ValueError(f"cu_seqlens must go from 0 to the length, {length}, not {boundaries.tolist()}")


def upcast(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def chunk_size(length: int, maximum: int) -> int:
    """The chunk size for a sequence: at most `maximum`, else the length rounded up to a power of two."""
    return min(maximum, 1 << (max(1, length) - 1).bit_length())


def split_chunks(tensor: Tensor, size: int) -> Tensor:
    """[b, l, h, …] → [n, b·h, size, …], padded with zeros at the end."""
    padding = -tensor.shape[1] % size
    if padding:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, padding))
    apart = tensor.reshape(tensor.shape[0], -1, size, *tensor.shape[2:])
    return apart.movedim(1, 0).movedim(3, 2).flatten(1, 2)


def merge_chunks(tensor: Tensor, batch: int, length: int) -> Tensor:
    """[n, b·h, size, d] → [b, length, h, d]: the inverse of `split_chunks`."""
    apart = tensor.reshape(len(tensor), batch, -1, *tensor.shape[2:])
    return apart.movedim(2, 3).movedim(0, 1).flatten(1, 2)[:, :length]


def run(
    recurrence: Recurrence, q: Tensor, rest: Sequence[Tensor | None], like: Tensor, scale: float | None, memory: Memory
) -> Result:
    """`recurrence(scale · q, *rest, state [b, h, d_k, d_v])` in float32, without autocast; the scale is 1/√d_k if None.

    q and the rest: [b, l, h, …] or None; `like`: the values [b, l, h, d_v] → (o like the values, state or None). A
    sequence without tokens keeps its state, as in fla.
    """

    def advance(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return recurrence(*tensors) if tensors[0].shape[1] else (upcast(like[:, :0]), tensors[-1])

    require_packed(like.shape[0], like.shape[1], memory.boundaries)
    sequences = like.shape[0] if memory.boundaries is None else len(memory.boundaries) - 1
    state = _initial(memory, (sequences, like.shape[2], q.shape[-1], like.shape[-1]), like)
    with torch.autocast(like.device.type, enabled=False):
        scaled = upcast(q) * (q.shape[-1] ** -0.5 if scale is None else scale)
        inputs = [scaled, *(None if tensor is None else upcast(tensor) for tensor in rest)]
        output, state = per_sequence(advance, inputs, state, memory.boundaries)
    state = state.transpose(-1, -2).contiguous() if memory.value_dim_first else state
    return output.to(like.dtype), state if memory.return_final else None


def _initial(memory: Memory, shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    if memory.initial is None:
        return torch.zeros(shape, device=like.device, dtype=upcast(like[:0]).dtype)
    state = memory.initial.transpose(-1, -2) if memory.value_dim_first else memory.initial
    if state.shape != shape:
        raise ValueError(f"initial_state must be [sequences, heads, d_k, d_v] = {shape}, not {tuple(state.shape)}")
    return upcast(state).to(upcast(like[:0]).dtype)


def per_sequence(
    recurrence: Recurrence, inputs: Sequence[Tensor | None], state: Tensor | None, boundaries: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`recurrence(*inputs, state)`, sequence by sequence if packed; the batch of states is that of sequences."""
    if boundaries is None:
        return recurrence(*inputs, state)
    outputs, states = [], []
    for index, (start, end) in enumerate(pairwise(boundaries.tolist())):
        part = [None if tensor is None else tensor[:, start:end] for tensor in inputs]
        output, last = recurrence(*part, None if state is None else state[index : index + 1])
        outputs.append(output)
        states.append(last)
    return torch.cat(outputs, dim=1), torch.cat(states, dim=0)


def carry_states(updates: Tensor, retained: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The states before each chunk [n, b·h, d_k, d_v] and after the last, from the chunks' updates and decays.

    retained: None, or the decay over each chunk, [n, b·h, d_k, 1] or [n, b·h, 1, d_v].
    """
    before = []
    decays = [None] * len(updates) if retained is None else retained.unbind(0)
    for update, decay in zip(updates.unbind(0), decays, strict=True):
        before.append(state)
        state = state + update if decay is None else torch.addcmul(update, state, decay)
    return torch.stack(before), state


def decayed_products(q: Tensor, k: Tensor, decay: Tensor | None) -> Tensor:
    """q, k: […, c, d]; decay: None, […, c, 1] or […, c, d], running sums; c a power of two → […, c, c], zero above.

    P_{ti} = Σ_d q_{td} k_{id} e^{G_{td} − G_{id}} for i ≤ t, with G the running sum of the log decays. A decay per head
    needs only the differences of all pairs, which are not positive. For mild decays per feature, queries and keys are
    scaled relative to the start of the chunk. For strong ones, whose inverse would overflow, the chunk is halved
    recursively and the queries of the second half and keys of the first are scaled relative to the middle, which needs
    no [c, c, d] tensor.
    """
    if decay is None:
        return (q @ k.transpose(-1, -2)).tril()
    if decay.shape[-1] == 1:
        return (q @ k.transpose(-1, -2)) * decay_matrix(decay)
    if _is_mild(decay):
        return ((q * decay.exp()) @ (k * (-decay).exp()).transpose(-1, -2)).tril()
    return _by_halves(q, k, decay)


def decayed_sums(scores: Tensor, values: Tensor, decay: Tensor) -> Tensor:
    """scores: […, c, c], zero above the diagonal; values and decay, running sums: […, c, d] → […, c, d].

    O_{td} = Σ_{i≤t} P_{ti} v_{id} e^{G_{td} − G_{id}}: a decay per value feature, computed as in `decayed_products`.
    """
    if _is_mild(decay):
        return (scores @ (values * (-decay).exp())) * decay.exp()
    half = scores.shape[-1] // 2
    if not half:
        return scores * values
    blocks = scores.reshape(*scores.shape[:-2], 2, half, 2, half)
    diagonal = torch.stack([blocks[..., 0, :, 0, :], blocks[..., 1, :, 1, :]], dim=-3)
    values, decay = _split_halves(values), _split_halves(decay)
    middle = decay[..., 0, -1:, :]
    early = values[..., 0, :, :] * (middle - decay[..., 0, :, :]).exp()
    across = (blocks[..., 1, :, 0, :] @ early) * (decay[..., 1, :, :] - middle).exp()
    first, second = decayed_sums(diagonal, values, decay).unbind(-3)
    return torch.cat([first, second + across], dim=-2)


def decayed_product_pair(q: Tensor, p: Tensor, k: Tensor, decay: Tensor | None) -> tuple[Tensor, Tensor]:
    """`decayed_products` of q and of p with k; the second is undefined above the diagonal."""
    if decay is not None and decay.shape[-1] > 1:
        if not _is_mild(decay):
            first, second = _by_halves(torch.stack([q, p]), k, decay).unbind(0)
            return first, second
        since, until = decay.exp(), (-decay).exp()  # the gradient of a quotient could overflow
        q, p, k, decay = q * since, p * since, k * until, None
    transposed = k.transpose(-1, -2)
    if decay is None:
        return (q @ transposed).tril(), p @ transposed
    weights = decay_matrix(decay)
    return (q @ transposed) * weights, (p @ transposed) * weights


def _is_mild(decay: Tensor) -> bool:
    """Whether all running sums are below MILD. False for NaN."""
    return bool(decay.detach().abs().amax() < MILD)


def decay_matrix(decay: Tensor) -> Tensor:
    """[…, c, c]: the decay from position i (column) to t (row), zero above the diagonal."""
    lower = torch.ones(decay.shape[-2], decay.shape[-2], dtype=torch.bool, device=decay.device).tril()
    return (decay - decay.transpose(-1, -2)).masked_fill(~lower, float("-inf")).exp()


def _by_halves(q: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    size = q.shape[-2]
    if size == 1:
        return (q * k).sum(-1, keepdim=True)
    q, k, decay = (_split_halves(tensor) for tensor in (q, k, decay))
    (_, late_q), (early_k, _), (early, late) = q.unbind(-3), k.unbind(-3), decay.unbind(-3)
    middle = early[..., -1:, :]
    across = (late_q * (late - middle).exp()) @ (early_k * (middle - early).exp()).transpose(-1, -2)
    first, second = _by_halves(q, k, decay).unbind(-3)
    above = torch.cat([first, torch.zeros_like(first)], dim=-1)
    return torch.cat([above, torch.cat([across, second], dim=-1)], dim=-2)


def _split_halves(tensor: Tensor) -> Tensor:
    """[…, c, d] → […, 2, c/2, d]."""
    return tensor.reshape(*tensor.shape[:-2], 2, -1, tensor.shape[-1])


def prepare_lens(cu_seqlens: Tensor) -> Tensor:
    """Lengths of packed sequences."""
    return cu_seqlens.diff()


def prepare_lens_from_mask(mask: Tensor) -> Tensor:
    """Number of unmasked tokens in each row of a mask [b, l]."""
    return mask.sum(dim=-1, dtype=torch.int32)


def prepare_cu_seqlens_from_lens(lens: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    """Boundaries of packed sequences of these lengths."""
    return F.pad(lens.cumsum(0, dtype=dtype), (1, 0))


def prepare_cu_seqlens_from_mask(mask: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    """Boundaries of the packed rows of a mask [b, l], without padding."""
    return prepare_cu_seqlens_from_lens(prepare_lens_from_mask(mask), dtype)


def prepare_sequence_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """The index of each token's sequence."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return _places(cu_seqlens.diff())[0].to(cu_seqlens)


def prepare_position_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """The position of each token in its sequence."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return _places(cu_seqlens.diff())[1].to(cu_seqlens)


def prepare_token_indices(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """[tokens, 2]: the sequence and the position of each token."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return torch.stack(_places(cu_seqlens.diff()), dim=1).to(cu_seqlens)


def prepare_chunk_indices(cu_seqlens: Tensor, chunk_size: int, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """[chunks, 2]: the sequence of each chunk and its index there."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return torch.stack(_places(_chunks(cu_seqlens, chunk_size)), dim=1).to(cu_seqlens)


def prepare_chunk_offsets(cu_seqlens: Tensor, chunk_size: int) -> Tensor:
    """The number of chunks before each sequence, and the total."""
    return F.pad(_chunks(cu_seqlens, chunk_size), (1, 0)).cumsum(-1)


def _chunks(cu_seqlens: Tensor, size: int) -> Tensor:
    return (cu_seqlens.diff() + size - 1).div(size, rounding_mode="floor")


def _places(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For segments of these sizes: the segment of each element, and the element's index in it."""
    segment = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return segment, torch.arange(len(segment), device=counts.device) - first[segment]
