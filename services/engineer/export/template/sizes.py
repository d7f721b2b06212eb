"""The shape of the language model around the mixer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSizes:
    """Everything but the mixer that fixes the model's parameters."""

    vocabulary: int
    width: int
    blocks: int
    heads: int
    feed_forward: int
    tied: bool
    layers: tuple[str, ...] = ()
    """Files of the layers' programs, repeated; the empty name is the architecture's own."""
    whole_model: bool = False
