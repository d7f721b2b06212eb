"""The sizes of the language model around a mixer."""

from dataclasses import dataclass
from typing import Any, cast

from services.domain.zoo import baseline
from services.engineer.scales import CANDIDATE, Scale
from services.sandbox import Message


@dataclass(frozen=True)
class ModelSizes:
    """The sizes that, with the mixer, determine the model's parameters. Exported packages contain this class."""

    vocabulary: int
    width: int
    blocks: int
    heads: int
    feed_forward: int
    tied: bool
    layers: tuple[str, ...] = ()
    """Programs of the layers, repeated; an empty one stands for the candidate's."""
    whole_model: bool = False
    """Whether the program may choose the mixers of its layers and the layout of its blocks."""

    @property
    def flops_without_mixers(self) -> int:
        """FLOPs per token, forward and backward, of matrix products in the feed-forward layers and the head."""
        return 6 * self.width * (self.vocabulary + 3 * self.blocks * self.feed_forward)

    def program_of(self, layer: int, candidate: str) -> str:
        """The program of a layer, which may be the candidate's."""
        return (self.layers[layer % len(self.layers)] if self.layers else "") or candidate


def model_sizes(scale: Scale, vocabulary: int) -> ModelSizes:
    """The sizes of a scale for a corpus with `vocabulary` different tokens."""
    layers = tuple("" if name == CANDIDATE else baseline(name).program for name in scale.pattern)
    sizes = (scale.width, scale.blocks, scale.heads, scale.feed_forward)
    return ModelSizes(vocabulary, *sizes, scale.tied, layers, scale.evolves == "model")


def sizes_in(message: Message) -> ModelSizes:
    """The sizes in the header of a message."""
    sizes = cast("dict[str, Any]", message.header["sizes"])
    return ModelSizes(**{**sizes, "layers": tuple(sizes["layers"])})
