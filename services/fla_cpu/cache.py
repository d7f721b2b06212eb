"""What a layer keeps between two calls of cached decoding."""

from collections.abc import Iterator

from torch import Tensor

State = dict[str, Tensor | tuple[Tensor, ...] | None]


class Cache:
    """One state per layer, as `past_key_values[layer_idx]`, and how many tokens have been seen."""

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
        """Keep what is given of one layer and leave the rest of it; the first layer counts the tokens."""
        del cache_kwargs, options
        if layer_idx == 0:
            self._seen_tokens += offset or 0
        while len(self.states) <= layer_idx:
            self.states.append({"recurrent_state": None, "attn_state": None, "conv_state": None, "ffn_state": None})
        state = self.states[layer_idx]
        given = {
            "recurrent_state": recurrent_state,
            "attn_state": attn_state,
            "conv_state": conv_state,
            "ffn_state": ffn_state,
        }
        state.update({name: value for name, value in given.items() if value is not None})
        return state

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        """Tokens seen so far."""
        return self._seen_tokens if len(self.states) > (layer_idx or 0) else 0

    @classmethod
    def from_legacy_cache(cls, past_key_values: object = None, seen_tokens: int = 0) -> "Cache":
        """A cache as it is, or a new one."""
        return past_key_values if isinstance(past_key_values, cls) else cls(seen_tokens)
