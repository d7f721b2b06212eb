"""The language model around a mixer and the plan of its training, as host and child agree on them."""

from dataclasses import dataclass, fields
from typing import Any, cast

from services.domain.zoo import baseline
from services.engineer.scales import CANDIDATE, Scale
from services.sandbox import Message

LAYERS, BLOCK = "LAYERS", "BLOCK"
"""Constants by which a program chooses the mixer of each layer and the layout of the blocks, if it may."""
LAYOUTS = ("sequential", "parallel")
INITIALISATION = "mixer: as the program sets it; embedding, head and feed-forward: normal, 0.02; norms: one"
"""The initialisation, which is recorded with each result."""


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
    sizes = cast("dict[str, Any]", message.header["sizes"])
    return ModelSizes(**{**sizes, "layers": tuple(sizes["layers"])})


@dataclass(frozen=True)
class Plan:
    """Settings of the optimiser: the part of a scale that is sent to the training child."""

    steps: int
    micro_batch: int
    learning_rate: float
    final_rate: float
    warmup: float
    decay: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    grad_clip: float
    precision: str
    compile: bool
    loss_chunk: int = 0

    @classmethod
    def of(cls, scale: Scale) -> "Plan":
        return cls(**{field.name: getattr(scale, field.name) for field in fields(cls)})


def learning_rate(step: int, plan: Plan | Scale) -> float:
    """The learning rate of optimiser step `step` (from 0).

    Linear from peak/n to the peak over the first `warmup` share of the steps, constant, then linear to `final_rate` ×
    peak over the last `decay` share (Hu et al. 2024, arXiv:2404.06395, with linear decay).
    """
    peak, rising, falling = plan.learning_rate, round(plan.warmup * plan.steps), round(plan.decay * plan.steps)
    if step < rising:
        return peak * (step + 1) / rising
    if step < plan.steps - falling:
        return peak
    left = (plan.steps - step) / (falling + 1)
    return peak * (plan.final_rate + (1 - plan.final_rate) * left)
