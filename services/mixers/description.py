"""A typed description of a token mixer, which moves change and programs are rendered from.

Descriptions are frozen, comparable and serialised as JSON. `Mixer.canonical()` resets fields without effect, such as a
path gate without paths, so that equal descriptions compute the same function family and `Mixer.structure()` identifies
an architecture. `CATALOGUE` contains the published mixers of the zoo.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Shift = Literal["none", "half", "learned", "dynamic", "canon"]
Convolved = Literal["", "v", "k", "qk", "kv", "qkv"]
Feature = Literal["silu", "identity", "elu", "relu", "squared_relu", "softmax", "hedgehog"]
KeyNorm = Literal["l2", "rms", "sum", "none"]
Rotary = Literal["none", "full", "half", "learned"]
Rule = Literal["delta", "product", "linear", "none"]
Decay = Literal["none", "retention", "momentum", "mamba", "sigmoid", "channel", "floored", "sparse"]
Write = Literal["one", "sigmoid", "double", "channel", "split", "implicit", "preconditioned"]
Form = Literal["plain", "trapezoid", "levels", "mesa", "ridge", "householder", "ages"]
PathKind = Literal[
    "convolution",
    "multi_scale",
    "dilated",
    "average",
    "window",
    "retention",
    "value",
    "forgetting",
    "routed",
    "linear_window",
]
FusionKind = Literal["sum", "sigmoid", "softmax", "hierarchical"]
Evidence = Literal["token", "statistics"]
Gate = Literal["none", "swish", "sigmoid", "head"]
Norm = Literal["rms", "layer", "none"]
Mixing = Literal["none", "static", "dynamic"]
Skip = Literal["none", "channel", "gated"]


class Part(BaseModel):
    """Base of all parts: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Inputs(Part):
    """How queries, keys and values are computed from the hidden states."""

    shift: Shift = "none"  # mixes each token with earlier ones before the projections
    convolved: Convolved = "qkv"  # which of q, k, v have a short causal convolution
    conv_size: int = Field(default=4, ge=2, le=16)  # taps of that convolution
    key_width: Literal["full", "half", "shared"] = "full"  # "shared": one wide key and query for all heads
    value_norm: bool = False  # RMS-normalise each head's values before they are written


class Features(Part):
    """What is applied to queries and keys between projection and memory."""

    map: Feature = "silu"
    norm: KeyNorm = "l2"
    rotary: Rotary = "none"


class Memory(Part):
    """The recurrent matrix memory: one state of key × value per head."""

    rule: Rule = "delta"
    steps: int = Field(default=1, ge=1, le=3)  # delta steps per token (rule "product")
    decay: Decay = "none"
    write: Write = "sigmoid"  # strength; "double" reaches 2: negative eigenvalues; "split" erases and writes apart
    # write "implicit" is the step of an implicit update, stable for keys of any length; "preconditioned" scales written
    # keys by their features' energy so far; decay "momentum" is fixed, and writes pass through a running sum.
    form: Form = "plain"
    # Forms of an additive memory with at most one decay per head: "trapezoid" also writes the previous token's write;
    # "levels" reads spans that double in length with separate weights; "mesa" and "ridge" solve the regression of
    # values on keys for the query; "householder" reflects the state along a direction per token; "ages" stores by a
    # learned clock and reads by a softmax over ages.
    tied: bool = False  # keys are scaled by 1 - forget gate
    normalised: bool = False  # divide by the accumulated weights, as in linear attention
    bonus: bool = False  # a learned extra weight for the current token
    feedback: bool = False  # queries less a learned share of their own keys


class Path(Part):
    """A path parallel to the memory that reads the same queries, keys and values."""

    kind: PathKind
    size: int = Field(default=0, ge=0, le=64)  # taps or window of the path; 0 if it has none


class Fusion(Part):
    """How the outputs of the memory and the paths are combined."""

    kind: FusionKind = "sum"
    floor: bool = False  # a minimum weight of a few percent per path
    temperature: bool = False  # a learned sharpness per head
    evidence: Evidence = "token"  # the gate's input: the token, or also each path's statistics


class Output(Part):
    """From the heads back to the hidden width."""

    gate: Gate = "none"
    gate_rank: Literal["full", "low"] = "full"
    norm: Norm = "rms"
    mixing: Mixing = "none"  # a linear map over heads
    skip: Skip = "none"  # the current value, added to the read


class Mixer(Part):
    """A whole token mixer. Raises pydantic.ValidationError, which names the field, for parts in contradiction."""

    inputs: Inputs = Inputs()
    features: Features = Features()
    memory: Memory = Memory()
    paths: tuple[Path, ...] = ()
    fusion: Fusion = Fusion()
    output: Output = Output()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if problem := contradiction(self):
            raise ValueError(problem)
        return self

    def canonical(self) -> "Mixer":
        """The same mixer with every field that has no effect set to its default."""
        return _canonical(self)

    def structure(self) -> str:
        """SHA-256 of the canonical description: equal for descriptions that compute the same.

        Defaults are omitted, so that new fields do not change the hash.
        """
        return _structure(self)


SOLVED_FORMS = frozenset({"mesa", "ridge"})
LEVELS = 16
"""States of a memory of form "levels": enough for 32,768 tokens; the longest spans of longer texts share a weight."""
POSITIVE_MAPS = frozenset({"elu", "relu", "squared_relu", "softmax", "hedgehog"})
KEYED_PATHS = frozenset({"window", "linear_window", "forgetting", "retention", "routed"})
SIZED_PATHS = frozenset({"convolution", "dilated", "average", "window", "linear_window", "forgetting"})
CHANNEL_DECAYS = frozenset({"channel", "floored", "sparse"})
DELTA_RULES = frozenset({"delta", "product"})
MAX_PATHS = 3


def reads_keys(mixer: Mixer) -> bool:
    """Whether any part of the mixer reads queries and keys (a pure convolution does not)."""
    return mixer.memory.rule != "none" or any(path.kind in KEYED_PATHS for path in mixer.paths)


def branches(mixer: Mixer) -> int:
    """The number of outputs that the fusion combines: the memory, if any, and the paths."""
    return len(mixer.paths) + (mixer.memory.rule != "none")


def contradiction(mixer: Mixer) -> str | None:
    """A sentence that names the invalid field; None for a valid description."""
    if problem := _memory_problem(mixer) or _path_problem(mixer):
        return problem
    if mixer.output.norm == "none" and mixer.memory.rule == "linear" and not mixer.memory.normalised:
        return "output.norm 'none' lets an unnormalised linear memory grow with the sequence"
    if mixer.output.skip == "gated" and any(path.kind == "value" for path in mixer.paths):
        return "output.skip 'gated' and a 'value' path are the same thing twice"
    return None


def _memory_problem(mixer: Mixer) -> str | None:
    memory, features = mixer.memory, mixer.features
    positive = features.map in POSITIVE_MAPS
    if features.norm == "sum" and not positive:
        return "features.norm 'sum' divides by the sum of a key: choose a positive features.map"
    if memory.rule in DELTA_RULES:
        unbounded = memory.write != "implicit" and features.norm not in {"l2", "sum"}
        if unbounded and (features.map, features.norm) != ("softmax", "none"):
            return "memory.rule 'delta' diverges with keys longer than 1: set features.norm to 'l2'"
        if memory.decay in CHANNEL_DECAYS and memory.rule == "product":
            return "memory.decay by channel is not for memory.rule 'product': use a decay by head"
        if memory.write == "channel":
            return "memory.write 'channel' is for memory.rule 'linear'"
        if memory.rule == "product" and "k" not in mixer.inputs.convolved:
            return "memory.rule 'product' tells its steps apart by convolutions of the key: inputs.convolved lacks 'k'"
        if memory.rule == "product" and (mixer.inputs.key_width == "shared" or features.rotary == "learned"):
            return "memory.rule 'product' needs keys of their own per head and no learned rotation"
        if memory.rule == "product" and features.map == "hedgehog":
            return "memory.rule 'product' has no learned feature map"
    if memory.write == "split" and memory.rule != "delta":
        return "memory.write 'split' gates erasing and writing apart, which only memory.rule 'delta' does"
    if memory.write == "preconditioned" and (memory.rule != "delta" or memory.decay in CHANNEL_DECAYS):
        return "memory.write 'preconditioned' needs memory.rule 'delta' and a decay by head, or none"
    if memory.write == "implicit" and memory.rule != "delta":
        return "memory.write 'implicit' is the step of one delta update: it needs memory.rule 'delta'"
    if memory.decay == "momentum" and memory.rule != "linear":
        return "memory.decay 'momentum' sums what is written: it needs memory.rule 'linear'"
    if memory.feedback and memory.rule == "product":
        return "memory.feedback takes one key per token from the query: memory.rule 'product' has several"
    if memory.rule == "linear" and memory.write == "double":
        return "memory.write 'double' means negative eigenvalues, which only a delta rule has"
    if memory.normalised and not (memory.rule == "linear" and positive and mixer.features.rotary == "none"):
        return "memory.normalised divides by accumulated weights: it needs rule 'linear', a positive map, no rotation"
    if memory.normalised and memory.decay in CHANNEL_DECAYS:
        return "memory.normalised is not defined with a decay by channel"
    if memory.rule == "linear" and memory.form != "plain":
        if memory.normalised or memory.decay in CHANNEL_DECAYS | {"momentum"}:
            return f"memory.form {memory.form!r} needs a decay by head, or none, and no memory.normalised"
        if memory.form in SOLVED_FORMS and features.norm != "l2":
            return f"memory.form {memory.form!r} solves a system that long keys spoil: set features.norm to 'l2'"
    if memory.tied and not (memory.rule == "linear" and memory.decay in CHANNEL_DECAYS):
        return "memory.tied needs memory.rule 'linear' and a decay by channel"
    return None


def _path_problem(mixer: Mixer) -> str | None:
    kinds = [path.kind for path in mixer.paths]
    if branches(mixer) == 0:
        return "paths is empty and memory.rule is 'none': nothing mixes the tokens"
    if kinds == ["value"] and mixer.memory.rule == "none":
        return "paths holds only the token's own value: nothing mixes the tokens"
    if len(set(kinds)) < len(kinds) or len(kinds) > MAX_PATHS:
        return f"paths must hold at most {MAX_PATHS} different kinds"
    for path in mixer.paths:
        if (path.kind in SIZED_PATHS) != (path.size > 0):
            return f"paths: size of a '{path.kind}' path must be {'positive' if path.kind in SIZED_PATHS else '0'}"
    if mixer.fusion.kind == "hierarchical" and branches(mixer) < 3:
        return "fusion.kind 'hierarchical' needs at least three branches"
    return None


@lru_cache(maxsize=1 << 11)  # a search asks many times about the same mixers; all entries take 20 MB
def _structure(mixer: Mixer) -> str:
    text = json.dumps(mixer.canonical().model_dump(exclude_defaults=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1 << 11)
def _canonical(mixer: Mixer) -> Mixer:
    inputs, features, memory, fusion, output = mixer.inputs, mixer.features, mixer.memory, mixer.fusion, mixer.output
    if not reads_keys(mixer):
        inputs = inputs.model_copy(update={"convolved": "v" if "v" in inputs.convolved else "", "key_width": "full"})
        features = Features()
    if not inputs.convolved:
        inputs = inputs.model_copy(update={"conv_size": Inputs().conv_size})
    if memory.rule == "none":
        memory = Memory(rule="none")
    else:
        changes: dict[str, object] = {"steps": max(memory.steps, 2) if memory.rule == "product" else 1}
        if memory.rule != "linear":
            changes |= {"bonus": False, "form": "plain"}
        memory = memory.model_copy(update=changes)
    if branches(mixer) < 2 or fusion.kind == "sum":
        fusion = Fusion()
    elif fusion.kind == "sigmoid":
        fusion = fusion.model_copy(update={"temperature": False})
    if output.gate in {"none", "head"}:
        output = output.model_copy(update={"gate_rank": "full"})
    paths = tuple(sorted(mixer.paths, key=lambda path: path.kind))
    parts = {"inputs": inputs, "features": features, "memory": memory, "paths": paths, "fusion": fusion}
    return Mixer.model_validate(mixer.model_copy(update={**parts, "output": output}).model_dump())


CATALOGUE: Mapping[str, Mixer] = {
    "delta_net": Mixer(),
    "gated_delta_net": Mixer(memory=Memory(decay="mamba"), output=Output(gate="swish")),
    "gla": Mixer(
        inputs=Inputs(convolved="", key_width="half"),
        features=Features(map="identity", norm="none"),
        memory=Memory(rule="linear", decay="channel", write="one"),
        output=Output(gate="swish"),
    ),
    "mamba2": Mixer(
        inputs=Inputs(key_width="shared"),
        features=Features(norm="none"),
        memory=Memory(rule="linear", decay="mamba"),
        output=Output(gate="swish", skip="channel"),
    ),
    "retnet": Mixer(
        inputs=Inputs(convolved=""),
        features=Features(map="identity", norm="none", rotary="full"),
        memory=Memory(rule="linear", decay="retention", write="one"),
        output=Output(gate="swish"),
    ),
    "linear_attention": Mixer(
        inputs=Inputs(convolved=""),
        features=Features(map="elu", norm="none"),
        memory=Memory(rule="linear", write="one", normalised=True),
    ),
    "conv_only": Mixer(
        inputs=Inputs(convolved="v"),
        memory=Memory(rule="none"),
        paths=(Path(kind="convolution", size=8),),
        output=Output(gate="swish"),
    ),
    "delta_net_value_skip": Mixer(output=Output(skip="gated")),
}

ROOT = "delta_net"


def state_size(mixer: Mixer, width: int, heads: int) -> int:
    """The number of values that one layer stores between tokens in recurrent mode.

    Memories count their matrices; convolutions and windows count the tokens that they look back on.
    """
    mixer = mixer.canonical()
    memory, inputs = mixer.memory, mixer.inputs
    keys = {"full": width, "half": width // 2, "shared": 2 * width // heads}[inputs.key_width]  # of all heads
    per_head = keys if inputs.key_width == "shared" else keys // heads
    per_head *= 2 if mixer.features.map == "hedgehog" else 1
    matrices = heads * per_head * (width // heads)
    size = {"none": 0, "canon": 3 * width}.get(inputs.shift, width)
    size += sum(
        (inputs.conv_size - 1) * (width if letter == "v" else keys) for letter in inputs.convolved
    )  # the steps of rule "product" convolve the same projection
    if memory.rule != "none":
        states = LEVELS if memory.form == "levels" else 2 if memory.decay == "momentum" else 1
        size += heads * per_head if memory.write == "preconditioned" else 0
        size += {"trapezoid": heads * per_head + width}.get(memory.form, 0)  # the previous write
        size += heads * per_head**2 if memory.form in {*SOLVED_FORMS, "ages"} else 0
        size += heads if memory.form == "ages" else 0  # the clocks
        size += states * (matrices + (heads * per_head if memory.normalised else 0))
    for path in mixer.paths:
        size += {
            "convolution": (path.size - 1) * width,
            "dilated": 4 * (path.size - 1) * width,
            "multi_scale": 14 * width,
            "average": (path.size - 1) * width,
            "window": (path.size - 1) * (heads * per_head + width),
            "linear_window": (path.size - 1) * (heads * per_head + width),
            "forgetting": (path.size - 1) * (heads * per_head + width + heads),
            "retention": matrices,
            "routed": 2 * matrices,
            "value": 0,
        }[path.kind]
    return size
