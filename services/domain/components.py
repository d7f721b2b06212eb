"""The vocabulary of components of token mixers: tags of the analyst, the offline researcher and cognition."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_SEPARATORS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Component:
    """One kind of part: its kebab-case name, what it is in one line, and other words for it."""

    name: str
    description: str
    aliases: tuple[str, ...]


def _spelling(tag: str) -> str:
    """A tag as lower-case words joined by hyphens: 'Short_Conv' and 'short conv' become 'short-conv'."""
    return _SEPARATORS.sub("-", tag.lower()).strip("-")


class Vocabulary:
    """Components in a fixed order, found by name or alias whatever their case and separators."""

    def __init__(self, components: Sequence[Component]) -> None:
        self._components = components
        self._index: dict[str, str] = {}
        for component in components:
            for spelling in {_spelling(word) for word in (component.name, *component.aliases)}:
                if other := self._index.get(spelling):
                    raise ValueError(f"{spelling!r} names both {other!r} and {component.name!r}; rename one")
                self._index[spelling] = component.name

    def __iter__(self) -> Iterator[Component]:
        return iter(self._components)

    def __contains__(self, tag: object) -> bool:
        return isinstance(tag, str) and _spelling(tag) in self._index

    def normalise(self, tag: str) -> str:
        """The canonical name of a tag; raises ValueError when there is none."""
        name = self._index.get(_spelling(tag))
        if name is None:
            names = ", ".join(component.name for component in self)
            raise ValueError(f"unknown component {tag!r}: use one of {names}")
        return name

    def tag(self, text: str) -> str:
        """The canonical name where there is one, else the text in lower case with hyphens; empty for an empty text."""
        return self._index.get(_spelling(text)) or "-".join(text.lower().replace("_", " ").split())

    def tags(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The distinct tags of texts, including those without a canonical name."""
        return tuple(tag for tag in dict.fromkeys(map(self.tag, texts)) if tag)


_KINDS = """
# How the state is written and forgotten.
delta-rule: replace the value stored under a key by its prediction error (deltanet, delta)
additive-state: sum of key-value outer products, nothing removed (linear-attention, hebbian-update)
forget-gate: state decay computed from the input (decay-gate, gated-decay, data-dependent-decay)
fixed-decay: state decay that does not depend on the input (retention, exponential-decay)
write-strength: learned step size of each write (beta, write-gate, learning-rate-gate)
input-gate: gate on what enters the state, apart from the decay (update-gate, gated-input)
gate-floor: lower bound below a gate or a mixing weight (epsilon-floor, minimum-gate)
householder-product: several delta steps per token (delta-product, multi-step-delta)
negative-eigenvalues: state transitions that may flip sign (allow-neg-eigval, sign-flip)
diagonal-ssm: state-space recurrence with a diagonal matrix (ssm, s4d, state-space)
selective-ssm: state space whose step and maps follow the input (mamba, mamba2, selection)
complex-state: complex or rotating recurrent state (complex-recurrence, oscillator)
dense-transition: state transition beyond diagonal plus rank one (structured-transition)
test-time-learning: state is a model trained by gradient steps while reading (ttt, fast-weights)
state-momentum: momentum or second-order information in the write (momentum, preconditioning)
# How much is remembered, and where.
multi-timescale-memory: states that forget at different rates (multi-scale-memory)
hierarchical-memory: states over growing spans, a tree of chunks (log-linear, hierarchical-state)
state-expansion: a larger recurrent state at equal width (expand-k, memory-size)
memory-slots: a bounded set of addressed slots (slots, memory-tokens, routed-memory)
state-normalisation: bounding or normalising the recurrent state (denominator, normaliser-state)
# What happens to queries, keys and values.
feature-map: non-linear map of queries and keys (kernel-map, phi)
random-features: randomised features that estimate a kernel (performer, rff)
qk-normalisation: norm on queries and keys (qk-norm, l2-norm, qk-l2-norm)
temperature: learned scale on scores, gates or mixing weights (learned-scale, sharpness)
rotary-phase: positions as rotations of queries and keys (rope, rotary, rotary-embedding)
positional-bias: additive or multiplicative bias by distance (alibi, relative-bias)
token-shift: mixing each token with the one before (time-shift, lerp-shift)
value-residual: values or inputs that bypass the state (value-skip, identity-path, skip-path)
low-rank-projection: projections or gates through a narrow layer (lora, bottleneck)
# Local mixing and exact attention.
short-convolution: depth-wise causal convolution of a few taps (short-conv, conv1d)
long-convolution: causal convolution over the whole sequence (global-convolution, hyena)
multi-scale-convolution: parallel convolutions of several widths (multi-scale-fir, fir-bank)
local-window-attention: exact attention within a window (sliding-window, swa)
sparse-attention: exact attention to selected tokens or blocks (block-selection, top-k-attention)
full-attention: exact attention to every earlier token (softmax-attention, global-attention)
attention-sink: a place for weight that belongs nowhere (sink-token, null-slot)
# How paths are joined and read.
parallel-paths: several mixers side by side in one layer (multi-path, multi-branch)
layer-interleaving: different mixers in different layers (hybrid-layers, hybrid-stack)
softmax-fusion: paths joined by weights that sum to one (softmax-router, convex-mixing)
sigmoid-fusion: paths joined by independent gates (independent-gates, sigmoid-router)
hierarchical-gating: gates in stages, coarse before fine (two-stage-gate, hierarchical-router)
content-router: mixing weights computed from hidden states or path statistics (router, routing)
sparse-experts: few of many experts, heads or states per token (moe, mixture-of-experts)
output-gate: gate on what is read (read-gate, swish-gate)
output-normalisation: norm on the read before projection (group-norm, output-norm, rms-norm)
output-feedback: the read corrected by the key that is written (output-correction, closed-loop)
head-mixing: information exchanged between heads (talking-heads, cross-head)
shared-state: keys, values or states shared by heads or layers (grouped-heads, multi-query)
entropy-regularisation: an extra loss or pressure on mixing weights (kl-regularisation)
# How it is computed and started.
chunkwise-form: parallel within chunks, recurrent between them (chunked, wy-form)
parallel-scan: associative scan over the recurrence (scan, prefix-scan)
hardware-kernel: fused or tiled computation near the memory limit (io-aware, fused-kernel)
initialisation: starting values that decide what is learnt (init, identity-init, zero-init)
distillation: turning a trained model into another kind (linearisation, conversion)
backbone-block: how mixer, norm and channel mixing make a block (block-design, channel-mixing)
"""


def _component(line: str) -> Component:
    """From "name: description (alias, alias)"."""
    name, _, rest = line.partition(": ")
    description, _, aliases = rest.removesuffix(")").partition(" (")
    return Component(name, description, tuple(aliases.split(", ")) if aliases else ())


VOCABULARY = Vocabulary([_component(line) for line in _KINDS.strip().splitlines() if not line.startswith("#")])

FORM = frozenset({"chunkwise-form", "parallel-scan", "hardware-kernel"})
"""Components of the implementation, which have no effect on the function and cannot be ablated."""
