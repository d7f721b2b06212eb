"""The shape of the language model around a mixer, and how it crosses the pipe."""

from dataclasses import asdict, dataclass

from services.engineer.scales import Scale


@dataclass(frozen=True)
class ModelSizes:
    """Everything but the mixer that fixes the model's parameters."""

    vocabulary: int
    width: int
    blocks: int
    heads: int
    feed_forward: int
    tied: bool

    @classmethod
    def of(cls, scale: Scale, vocabulary: int) -> "ModelSizes":
        """The sizes of a scale for a corpus with `vocabulary` different tokens."""
        return cls(vocabulary, scale.width, scale.blocks, scale.heads, scale.feed_forward, scale.tied)

    def header(self) -> dict[str, int]:
        """As it is written into a message."""
        return asdict(self)
