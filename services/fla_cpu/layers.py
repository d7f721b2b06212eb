"""Utilities of fla's layers: the decoding cache, and conversion between padded batches and packed sequences."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

State = dict[str, Tensor | tuple[Tensor, ...] | None]


class Cache:
    """The state of each layer, as `past_key_values[layer_idx]`, and the number of tokens."""

    def __init__(self, seen_tokens: int = 0) -> None:
        self.states: list[State] = []
        self._seen_tokens = seen_tokens

    def __getitem__(self, layer: int) -> State:
        return self.states[layer]

    def __iter__(self) -> Iterator[State]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)

    def update(
        self,
        recurrent_state: Tensor | tuple[Tensor, ...] | None = None,
        attn_state: tuple[Tensor, ...] | None = None,
        conv_state: Tensor | tuple[Tensor, ...] | None = None,
        ffn_state: Tensor | tuple[Tensor, ...] | None = None,
        layer_idx: int = 0,
        offset: int | None = 1,
        cache_kwargs: dict[str, object] | None = None,
        **options: object,
    ) -> State:
        """Update the given states of one layer; the first layer counts the tokens."""
        del cache_kwargs, options
        if layer_idx == 0:
            self._seen_tokens += offset or 0
        while len(self.states) <= layer_idx:
            self.states.append({"recurrent_state": None, "attn_state": None, "conv_state": None, "ffn_state": None})
        state = self.states[layer_idx]
        values: State = {"recurrent_state": recurrent_state, "attn_state": attn_state}
        values |= {"conv_state": conv_state, "ffn_state": ffn_state}
        state.update({name: value for name, value in values.items() if value is not None})
        return state

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        """The number of tokens so far."""
        return self._seen_tokens if len(self.states) > (layer_idx or 0) else 0

    @classmethod
    def from_legacy_cache(cls, past_key_values: object = None, seen_tokens: int = 0) -> "Cache":
        """The given cache, or a new one."""
        return past_key_values if isinstance(past_key_values, cls) else cls(seen_tokens)


def get_unpad_data(attention_mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """From a mask [b, l]: indices of unmasked tokens, boundaries of the packed sequences, the greatest length."""
    lengths = attention_mask.sum(-1, dtype=torch.int32)
    indices = attention_mask.flatten().nonzero().flatten()
    boundaries = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return indices, boundaries, int(lengths.max())


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """Rows of x by index."""
    return x[indices]


def pad_input(hidden_states: Tensor, indices: Tensor, batch_size: int, seq_len: int) -> Tensor:
    """Packed [tokens, …] → [batch, length, …] with zeros for masked tokens."""
    output = hidden_states.new_zeros(batch_size * seq_len, *hidden_states.shape[1:])
    return output.index_copy(0, indices, hidden_states).reshape(batch_size, seq_len, *hidden_states.shape[1:])


def unpad_hidden_states(
    hidden_states: Tensor, cu_seqlens: Tensor | None, attention_mask: Tensor | None, q_len: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """[b, l, …] → ([1, tokens, …], indices, boundaries) by the mask; unchanged if packed or without a mask."""
    if cu_seqlens is not None or attention_mask is None:
        return hidden_states, None, cu_seqlens
    indices, boundaries, _ = get_unpad_data(attention_mask[:, -q_len:])
    return index_first_axis(hidden_states.flatten(0, 1), indices).unsqueeze(0), indices, boundaries


def repad_hidden_states(hidden_states: Tensor, indices: Tensor | None, batch_size: int, q_len: int) -> Tensor:
    """The inverse of `unpad_hidden_states`."""
    return hidden_states if indices is None else pad_input(hidden_states.squeeze(0), indices, batch_size, q_len)


Packed = tuple[Tensor | tuple[Tensor, ...], tuple[Tensor, ...], Tensor, tuple[Tensor, Tensor], tuple[int, int]]


def unpad_input(
    q: Tensor | tuple[Tensor, ...],
    states: tuple[Tensor, ...],
    attention_mask: Tensor,
    q_len: int,
    keepdim: bool = False,
) -> Packed:
    """Queries [b, q_len, …] and states [b, l, …] without the tokens masked by [b, l].

    q_len is l, or 1 in decoding. → (queries, states, query indices, boundaries of both, greatest lengths of both)
    """
    indices, boundaries, longest = get_unpad_data(attention_mask)
    queries = (q,) if isinstance(q, Tensor) else q
    if q_len == attention_mask.shape[-1]:
        query_indices, edges, query_longest = indices, boundaries, longest
        queries = tuple(index_first_axis(query.flatten(0, 1), indices) for query in queries)
    elif q_len == 1:
        edges = torch.arange(len(attention_mask) + 1, dtype=torch.int32, device=attention_mask.device)
        query_indices, query_longest = edges[:-1], 1
        queries = tuple(query.squeeze(1) for query in queries)
    else:
        raise ValueError(f"q_len must be 1 or the length of the mask, {attention_mask.shape[-1]}, not {q_len}")
    packed = tuple(index_first_axis(state.flatten(0, 1), indices) for state in states)
    if keepdim:
        queries, packed = tuple(query.unsqueeze(0) for query in queries), tuple(state.unsqueeze(0) for state in packed)
    first = queries[0] if isinstance(q, Tensor) else queries
    return first, packed, query_indices, (edges, boundaries), (query_longest, longest)


def require_cache_layer_idx(module: nn.Module, past_key_values: Cache | None) -> int | None:
    """The module's layer_idx. Raises ValueError for a cache without an index."""
    layer: int | None = getattr(module, "layer_idx", None)
    if past_key_values is not None and layer is None:
        raise ValueError(f"{type(module).__name__} needs a layer_idx to use a cache: pass it to the constructor")
    return layer


def get_layer_cache(module: nn.Module, past_key_values: Cache | None) -> State | None:
    """The state of this layer in the cache, if there is one."""
    layer = require_cache_layer_idx(module, past_key_values)
    if past_key_values is None or layer is None or len(past_key_values) <= layer:
        return None
    return past_key_values[layer]


def update_layer_cache(module: nn.Module, past_key_values: Cache | None, **values: object) -> State | None:
    """Update the state of this layer in the cache (recurrent_state, conv_state, offset …)."""
    layer = require_cache_layer_idx(module, past_key_values)
    if past_key_values is None or layer is None:
        return None
    return past_key_values.update(layer_idx=layer, **values)  # type: ignore[arg-type]
