"""The shape of the language model around a mixer, and how it crosses the pipe."""

from dataclasses import asdict, dataclass
from typing import cast

from services.engineer.scales import Scale
from services.engineer.training.ports import JSON, Message


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

    @property
    def flops_without_mixers(self) -> int:
        """Matrix products per token, forward and backward, of the feed-forward parts and the head."""
        return 6 * self.width * (self.vocabulary + 3 * self.blocks * self.feed_forward)

    def header(self) -> dict[str, JSON]:
        """As it is written into a message."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Message) -> "ModelSizes":
        """As the guest reads it out of a `begin` message."""
        return cls(**cast("dict[str, int]", message.header["sizes"]))  # type: ignore[arg-type]
