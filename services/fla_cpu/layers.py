"""Utilities of fla's layers: the decoding cache, packing of padded batches, and the element-wise parts of RWKV."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.fla_cpu.convolution import token_shift

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
        **_options: object,
    ) -> State:
        """Update the given states of one layer; the first layer counts the tokens.

        The tensors [b, l, …] of `attn_state` are appended to the earlier ones, and cut to a `window_size` if there is
        one in `cache_kwargs`.
        """
        if layer_idx == 0:
            self._seen_tokens += offset or 0
        values: State = {"recurrent_state": recurrent_state, "attn_state": attn_state}
        values |= {"conv_state": conv_state, "ffn_state": ffn_state}
        while len(self.states) <= layer_idx:
            self.states.append(dict.fromkeys(values))
        window, former = (cache_kwargs or {}).get("window_size"), self.states[layer_idx]["attn_state"]
        if attn_state is not None and isinstance(former, tuple):
            values["attn_state"] = tuple(torch.cat(pair, dim=1) for pair in zip(former, attn_state, strict=True))
        if isinstance(values["attn_state"], tuple) and isinstance(window, int):
            values["attn_state"] = tuple(part[:, -window:] for part in values["attn_state"])
        self.states[layer_idx] |= {name: value for name, value in values.items() if value is not None}
        return self.states[layer_idx]

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
    boundaries = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return indices, boundaries, int(lengths.max())


def get_unpad_indices_and_cu(attention_mask: Tensor, q_len: int | None = None) -> tuple[Tensor, Tensor]:
    """`get_unpad_data` of the last q_len columns, without the greatest length."""
    return get_unpad_data(attention_mask if q_len is None else attention_mask[:, -q_len:])[:2]


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
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


def fused_addcmul_rwkv7(
    hidden_states: Tensor,
    delta: Tensor,
    xr: Tensor,
    xw: Tensor,
    xk: Tensor,
    xv: Tensor,
    xa: Tensor,
    xg: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """hidden_states + delta · weight for each of the weights [1, 1, d]; None for a missing xg."""
    r, w, k, v, a = (torch.addcmul(hidden_states, delta, weight) for weight in (xr, xw, xk, xv, xa))
    return r, w, k, v, a, None if xg is None else torch.addcmul(hidden_states, delta, xg)


def fused_k_rwkv7(
    k: Tensor, a: Tensor, ka: Tensor, cu_seqlens: Tensor | None = None, cu_seqlens_cpu: Tensor | None = None
) -> Tensor:
    """k · (1 + (a − 1) · ka): the keys that RWKV-7 writes, scaled by the rate a as far as ka says."""
    del cu_seqlens, cu_seqlens_cpu  # each token by itself
    return torch.addcmul(k, k * (a - 1), ka)


def gate_output_correction(o: Tensor, r: Tensor, k: Tensor, r_k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """(o + (Σ r · k · r_k) v) · g; o, g: [b, l, h · d], r, k, v: [b, l, h, d], r_k: [h, d]."""
    return (o + ((r * k * r_k).sum(-1, keepdim=True) * v).reshape(o.shape)) * g


def channel_mixing_rwkv7(
    x: Tensor, x_prev: Tensor, x_k: Tensor, key_weight: Tensor, value_weight: Tensor, inplace: bool = True
) -> tuple[Tensor, Tensor]:
    """relu(x' K)² V with x' = x + (the token before − x) · x_k, and the last row of the batch, as in fla.

    x: [b, l, d], x_prev, the token before the first: [b, d], x_k: [d], K: [d, f], V: [f, d].
    """
    del inplace  # saves memory in fla's kernel
    delta = token_shift(x, cache=x_prev)
    assert isinstance(delta, Tensor)  # noqa: S101 - without output_cache
    return F.relu(torch.addcmul(x, delta, x_k) @ key_weight).square() @ value_weight, x[-1, :]


class LoRA(nn.Module):
    """W₂ f(W₁ x) + b of low rank; W₁ is zero at first, and W₂ orthogonal and small."""

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        low_rank_dim: int,
        bias: bool | None = True,
        activation: str | None = "tanh",
    ) -> None:
        super().__init__()
        activations = {None: nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
        if activation not in activations:
            raise ValueError(f"activation is {activation!r}; choose sigmoid, tanh, relu or None")
        self.input_dim, self.output_dim, self.low_rank_dim = input_dim, output_dim, low_rank_dim
        self.bias = bias
        self.activation: nn.Module = activations[activation]()
        up, down = nn.Linear(input_dim, low_rank_dim, bias=False), nn.Linear(low_rank_dim, output_dim, bias=bool(bias))
        self.lora = nn.Sequential(up, self.activation, down)
        self._initialize_weights(self)

    def _initialize_weights(self, module: nn.Module) -> None:
        """Reset the weights. RWKV-7's layer calls it, with an argument, when it initialises its own."""
        del module
        up, down = (layer for layer in self.lora if isinstance(layer, nn.Linear))
        nn.init.zeros_(up.weight)
        nn.init.orthogonal_(down.weight, gain=0.1 * math.sqrt(max(1.0, self.low_rank_dim / self.output_dim)))
        if self.bias:
            nn.init.zeros_(down.bias)

    def set_bias_value(self, value: Tensor | float) -> None:
        """Set all of the bias, if there is one, to a number or to a tensor [output_dim]."""
        bias = self.lora[2].bias
        if isinstance(bias, Tensor):
            with torch.no_grad():
                bias.copy_(torch.as_tensor(value).expand_as(bias))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.lora(x)
        return output


class DDLerpLinear(nn.Module):
    """A projection, or `LoRA` of low rank, of x + (the token before − x) · mu."""

    def __init__(self, input_dim: int, output_dim: int, low_rank_dim: int | None = None) -> None:
        super().__init__()
        self.input_dim, self.output_dim, self.low_rank_dim = input_dim, output_dim, low_rank_dim
        self.linear: nn.Module = (
            nn.Linear(input_dim, output_dim, bias=False)
            if low_rank_dim is None
            else LoRA(input_dim, output_dim, low_rank_dim)
        )

    def forward(self, x: Tensor, mu: Tensor, delta: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """[b, l, input_dim] → [b, l, output_dim]; delta: `token_shift` of x, if it is known already."""
        shift = token_shift(x, cu_seqlens) if delta is None else delta
        assert isinstance(shift, Tensor)  # noqa: S101 - without output_cache
        output: Tensor = self.linear(x + shift * mu)
        return output


class LerpLinear(DDLerpLinear):
    """`DDLerpLinear` with its own mu, which is zero at first."""

    def __init__(self, input_dim: int, output_dim: int, low_rank_dim: int | None = None) -> None:
        super().__init__(input_dim, output_dim, low_rank_dim)
        self.mu = nn.Parameter(torch.zeros(input_dim))

    def forward(  # type: ignore[override]
        self, x: Tensor, delta: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor:
        """[b, l, input_dim] → [b, l, output_dim]; delta as in `DDLerpLinear`."""
        return super().forward(x, self.mu, delta, cu_seqlens)
