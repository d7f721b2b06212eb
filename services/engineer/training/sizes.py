"""The shape of the language model around a mixer, and how it crosses the pipe."""

from dataclasses import asdict, dataclass
from typing import Any, cast

from services.domain.zoo import baseline
from services.engineer.scales import CANDIDATE, Scale
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
    layers: tuple[str, ...] = ()
    """Programs of the layers, repeated; empty text is the candidate's. The child opens no file, so they come along."""
    whole_model: bool = False
    """The program may name the mixers of its layers and the layout of its blocks."""

    @classmethod
    def of(cls, scale: Scale, vocabulary: int) -> "ModelSizes":
        """The sizes of a scale for a corpus with `vocabulary` different tokens."""
        layers = tuple("" if name == CANDIDATE else baseline(name).program for name in scale.pattern)
        return cls(
            vocabulary,
            scale.width,
            scale.blocks,
            scale.heads,
            scale.feed_forward,
            scale.tied,
            layers,
            scale.evolves == "model",
        )

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
        sizes = cast("dict[str, Any]", message.header["sizes"])
        return cls(**{**sizes, "layers": tuple(sizes["layers"])})

    def program_of(self, layer: int, candidate: str) -> str:
        """The program of a layer, given the candidate's."""
        return (self.layers[layer % len(self.layers)] if self.layers else "") or candidate
