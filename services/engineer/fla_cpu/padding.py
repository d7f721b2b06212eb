"""Between padded batches and packed sequences, as fla's layers do it."""

import torch
from torch import Tensor


def get_unpad_data(attention_mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """From a mask [b, l]: indices of real tokens, boundaries of the packed sequences, the longest length."""
    lengths = attention_mask.sum(-1, dtype=torch.int32)
    indices = attention_mask.flatten().nonzero().flatten()
    boundaries = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return indices, boundaries, int(lengths.max())


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """Rows of x by index."""
    return x[indices]


def pad_input(hidden_states: Tensor, indices: Tensor, batch_size: int, seq_len: int) -> Tensor:
    """Packed [tokens, …] → [batch, length, …] with zeros where the mask was zero."""
    output = hidden_states.new_zeros(batch_size * seq_len, *hidden_states.shape[1:])
    return output.index_copy(0, indices, hidden_states).reshape(batch_size, seq_len, *hidden_states.shape[1:])


def unpad_input(
    q: Tensor, states: tuple[Tensor, ...], attention_mask: Tensor, q_len: int, keepdim: bool = False
) -> tuple[Tensor, tuple[Tensor, ...], Tensor, tuple[Tensor, Tensor], tuple[int, int]]:
    """Queries [b, q_len, …] and states [b, l, …] without the tokens that the mask [b, l] leaves out."""
    indices, boundaries, longest = get_unpad_data(attention_mask)
    packed = tuple(index_first_axis(state.flatten(0, 1), indices) for state in states)
    if q_len == attention_mask.shape[-1]:
        queries, query_indices, query_boundaries, query_longest = q.flatten(0, 1)[indices], indices, boundaries, longest
    else:
        query_mask = attention_mask[:, -q_len:]
        query_indices, query_boundaries, query_longest = get_unpad_data(query_mask)
        queries = q.flatten(0, 1)[query_indices]
    if keepdim:
        queries, packed = queries.unsqueeze(0), tuple(state.unsqueeze(0) for state in packed)
    return queries, packed, query_indices, (query_boundaries, boundaries), (query_longest, longest)
