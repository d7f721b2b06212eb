"""The vocabulary of component kinds: what a token mixer can be made of.

One fixed list of kebab-case names, so that the analyst's tags, the offline researcher's moves and the cognition base
count the same thing under the same word (the paper's Figure 7 needs about 40 kinds). A run may extend it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SEPARATORS = re.compile(r"[^a-z0-9]+")


class UnknownComponentError(ValueError):
    """A tag that is neither a component's name nor one of its aliases."""


@dataclass(frozen=True)
class Component:
    """One kind of part: its kebab-case name, what it is in one line, and other words for it."""

    name: str
    description: str
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a name that is not kebab-case, because names are compared as plain text everywhere."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"component name {self.name!r} must be kebab-case, for example 'forget-gate'")


def _spelling(tag: str) -> str:
    """A tag as lower-case words joined by hyphens: 'Short_Conv' and 'short conv' become 'short-conv'."""
    return _SEPARATORS.sub("-", tag.lower()).strip("-")


@dataclass(frozen=True)
class Vocabulary:
    """Components in a fixed order, found by name or alias whatever their case and separators.

    Raises ValueError when two components claim the same spelling.
    """

    components: tuple[Component, ...]

    def __post_init__(self) -> None:
        """Build the index at once, so that a clash is found when the vocabulary is made."""
        _ = self._index

    @cached_property
    def _index(self) -> dict[str, str]:
        index: dict[str, str] = {}
        for component in self.components:
            for spelling in {_spelling(word) for word in (component.name, *component.aliases)}:
                if spelling in index:
                    raise ValueError(f"{spelling!r} names both {index[spelling]!r} and {component.name!r}; rename one")
                index[spelling] = component.name
        return index

    def __iter__(self) -> Iterator[Component]:
        """The components in their order."""
        return iter(self.components)

    def __len__(self) -> int:
        """How many kinds there are."""
        return len(self.components)

    def __contains__(self, tag: object) -> bool:
        """Whether the tag is a component's name or alias."""
        return isinstance(tag, str) and _spelling(tag) in self._index

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical names in their order."""
        return tuple(component.name for component in self.components)

    def normalise(self, tag: str) -> str:
        """The canonical name of a tag; raises UnknownComponentError when there is none."""
        name = self._index.get(_spelling(tag))
        if name is None:
            raise UnknownComponentError(
                f"unknown component {tag!r}: use one of {', '.join(self.names)}, or extend the list"
            )
        return name

    def tag(self, text: str) -> str:
        """The canonical name where there is one, else the text in lower case with hyphens; empty for an empty text."""
        return self._index.get(_spelling(text)) or "-".join(text.lower().replace("_", " ").split())


VOCABULARY = Vocabulary(
    (
        # How the state is written and forgotten.
        Component("delta-rule", "replace the value stored under a key by its prediction error", ("deltanet", "delta")),
        Component(
            "additive-state", "sum of key-value outer products, nothing removed", ("linear-attention", "hebbian-update")
        ),
        Component(
            "forget-gate", "state decay computed from the input", ("decay-gate", "gated-decay", "data-dependent-decay")
        ),
        Component("fixed-decay", "state decay that does not depend on the input", ("retention", "exponential-decay")),
        Component("write-strength", "learned step size of each write", ("beta", "write-gate", "learning-rate-gate")),
        Component("input-gate", "gate on what enters the state, apart from the decay", ("update-gate", "gated-input")),
        Component("gate-floor", "lower bound below a gate or a mixing weight", ("epsilon-floor", "minimum-gate")),
        Component("householder-product", "several delta steps per token", ("delta-product", "multi-step-delta")),
        Component("negative-eigenvalues", "state transitions that may flip sign", ("allow-neg-eigval", "sign-flip")),
        Component("diagonal-ssm", "state-space recurrence with a diagonal matrix", ("ssm", "s4d", "state-space")),
        Component(
            "selective-ssm", "state space whose step and maps follow the input", ("mamba", "mamba2", "selection")
        ),
        Component("complex-state", "complex or rotating recurrent state", ("complex-recurrence", "oscillator")),
        Component("dense-transition", "state transition beyond diagonal plus rank one", ("structured-transition",)),
        Component(
            "test-time-learning", "state is a model trained by gradient steps while reading", ("ttt", "fast-weights")
        ),
        Component(
            "state-momentum", "momentum or second-order information in the write", ("momentum", "preconditioning")
        ),
        # How much is remembered, and where.
        Component("multi-timescale-memory", "states that forget at different rates", ("multi-scale-memory",)),
        Component(
            "hierarchical-memory", "states over growing spans, a tree of chunks", ("log-linear", "hierarchical-state")
        ),
        Component("state-expansion", "a larger recurrent state at equal width", ("expand-k", "memory-size")),
        Component("memory-slots", "a bounded set of addressed slots", ("slots", "memory-tokens", "routed-memory")),
        Component(
            "state-normalisation", "bounding or normalising the recurrent state", ("denominator", "normaliser-state")
        ),
        # What happens to queries, keys and values.
        Component("feature-map", "non-linear map of queries and keys", ("kernel-map", "phi")),
        Component("random-features", "randomised features that estimate a kernel", ("performer", "rff")),
        Component("qk-normalisation", "norm on queries and keys", ("qk-norm", "l2-norm", "qk-l2-norm")),
        Component("temperature", "learned scale on scores, gates or mixing weights", ("learned-scale", "sharpness")),
        Component("rotary-phase", "positions as rotations of queries and keys", ("rope", "rotary", "rotary-embedding")),
        Component("positional-bias", "additive or multiplicative bias by distance", ("alibi", "relative-bias")),
        Component("token-shift", "mixing each token with the one before", ("time-shift", "lerp-shift")),
        Component(
            "value-residual", "values or inputs that bypass the state", ("value-skip", "identity-path", "skip-path")
        ),
        Component("low-rank-projection", "projections or gates through a narrow layer", ("lora", "bottleneck")),
        # Local mixing and exact attention.
        Component("short-convolution", "depth-wise causal convolution of a few taps", ("short-conv", "conv1d")),
        Component("long-convolution", "causal convolution over the whole sequence", ("global-convolution", "hyena")),
        Component(
            "multi-scale-convolution", "parallel convolutions of several widths", ("multi-scale-fir", "fir-bank")
        ),
        Component("local-window-attention", "exact attention within a window", ("sliding-window", "swa")),
        Component(
            "sparse-attention", "exact attention to selected tokens or blocks", ("block-selection", "top-k-attention")
        ),
        Component(
            "full-attention", "exact attention to every earlier token", ("softmax-attention", "global-attention")
        ),
        Component("attention-sink", "a place for weight that belongs nowhere", ("sink-token", "null-slot")),
        # How paths are joined and read.
        Component("parallel-paths", "several mixers side by side in one layer", ("multi-path", "multi-branch")),
        Component("layer-interleaving", "different mixers in different layers", ("hybrid-layers", "hybrid-stack")),
        Component("softmax-fusion", "paths joined by weights that sum to one", ("softmax-router", "convex-mixing")),
        Component("sigmoid-fusion", "paths joined by independent gates", ("independent-gates", "sigmoid-router")),
        Component(
            "hierarchical-gating", "gates in stages, coarse before fine", ("two-stage-gate", "hierarchical-router")
        ),
        Component(
            "content-router", "mixing weights computed from hidden states or path statistics", ("router", "routing")
        ),
        Component("sparse-experts", "few of many experts, heads or states per token", ("moe", "mixture-of-experts")),
        Component("output-gate", "gate on what is read", ("read-gate", "swish-gate")),
        Component(
            "output-normalisation", "norm on the read before projection", ("group-norm", "output-norm", "rms-norm")
        ),
        Component(
            "output-feedback", "the read corrected by the key that is written", ("output-correction", "closed-loop")
        ),
        Component("head-mixing", "information exchanged between heads", ("talking-heads", "cross-head")),
        Component("shared-state", "keys, values or states shared by heads or layers", ("grouped-heads", "multi-query")),
        Component("entropy-regularisation", "an extra loss or pressure on mixing weights", ("kl-regularisation",)),
        # How it is computed and started.
        Component("chunkwise-form", "parallel within chunks, recurrent between them", ("chunked", "wy-form")),
        Component("parallel-scan", "associative scan over the recurrence", ("scan", "prefix-scan")),
        Component("hardware-kernel", "fused or tiled computation near the memory limit", ("io-aware", "fused-kernel")),
        Component(
            "initialisation", "starting values that decide what is learnt", ("init", "identity-init", "zero-init")
        ),
        Component("distillation", "turning a trained model into another kind", ("linearisation", "conversion")),
        Component(
            "backbone-block", "how mixer, norm and channel mixing make a block", ("block-design", "channel-mixing")
        ),
    )
)


def normalise(tag: str) -> str:
    """The canonical name of a tag in the fixed vocabulary; raises UnknownComponentError when there is none."""
    return VOCABULARY.normalise(tag)
