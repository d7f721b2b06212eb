"""The shape of the language model around the mixer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSizes:
    """The sizes that, with the mixer, determine the model's parameters."""

    vocabulary: int
    width: int
    blocks: int
    heads: int
    feed_forward: int
    tied: bool
    layers: tuple[str, ...] = ()
    """Files of the layers' programs, repeated; an empty name stands for program.py."""
    whole_model: bool = False
