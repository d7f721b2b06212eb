"""A typed description of a token mixer: what the offline mind changes, and what its programs are rendered from.

A description is a value: frozen, comparable, JSON on the wire. `Mixer.settled()` resets every field that has no effect
in its surroundings (a path gate without paths, say), so that two descriptions are equal exactly when they compute the
same function family, and `Mixer.structure()` can serve as the identity of an architecture.
"""

import hashlib
import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.researcher.offline import rules

Shift = Literal["none", "half", "learned", "dynamic"]
Convolved = Literal["", "v", "k", "qk", "kv", "qkv"]
Feature = Literal["silu", "identity", "elu", "relu", "squared_relu", "softmax", "hedgehog"]
KeyNorm = Literal["l2", "rms", "sum", "none"]
Rotary = Literal["none", "full", "half", "learned"]
Rule = Literal["delta", "product", "linear", "none"]
Decay = Literal["none", "retention", "mamba", "sigmoid", "channel", "floored"]
Write = Literal["one", "sigmoid", "double", "channel"]
PathKind = Literal["convolution", "multi_scale", "dilated", "average", "window", "retention", "value", "forgetting"]
FusionKind = Literal["sum", "sigmoid", "softmax", "hierarchical"]
Evidence = Literal["token", "statistics"]
Gate = Literal["none", "swish", "sigmoid", "head"]
Norm = Literal["rms", "layer", "none"]
Mixing = Literal["none", "static", "dynamic"]
Skip = Literal["none", "channel", "gated"]


class Part(BaseModel):
    """Base of all parts: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Inputs(Part):
    """How queries, keys and values are made from the hidden states."""

    shift: Shift = "none"  # mix each token with the one before it, ahead of the projections
    convolved: Convolved = "qkv"  # which of q, k, v pass a short causal convolution
    conv_size: int = Field(default=4, ge=2, le=16)  # taps of that convolution
    key_width: Literal["full", "half", "shared"] = "full"  # "shared": one wide key and query for all heads
    value_norm: bool = False  # RMS-normalise each head's values before they are written


class Features(Part):
    """What happens to queries and keys between projection and memory."""

    map: Feature = "silu"
    norm: KeyNorm = "l2"
    rotary: Rotary = "none"


class Memory(Part):
    """The recurrent matrix memory: one state of key × value per head."""

    rule: Rule = "delta"
    steps: int = Field(default=1, ge=1, le=3)  # delta steps per token (rule "product")
    decay: Decay = "none"
    write: Write = "sigmoid"  # strength of a write; "double" reaches 2: negative eigenvalues
    tied: bool = False  # keys are scaled by 1 - forget gate
    normalised: bool = False  # divide by the accumulated weights, as in linear attention
    bonus: bool = False  # a learned extra weight for the current token


class Path(Part):
    """A path beside the memory that reads the same queries, keys and values."""

    kind: PathKind
    size: int = Field(default=0, ge=0, le=64)  # taps or window of the path; 0 where it has none


class Fusion(Part):
    """How the memory and the paths beside it become one output."""

    kind: FusionKind = "sum"
    floor: bool = False  # no path's weight falls below a few percent
    temperature: bool = False  # a learned sharpness per head
    evidence: Evidence = "token"  # what the gate sees: the token, or also each path's statistics


class Output(Part):
    """From the heads back to the hidden width."""

    gate: Gate = "none"
    gate_rank: Literal["full", "low"] = "full"
    norm: Norm = "rms"
    mixing: Mixing = "none"  # a linear map over heads
    skip: Skip = "none"  # the current value, added to what was read


class Mixer(Part):
    """A whole token mixer.

    Raises:
        ValueError: (as pydantic.ValidationError) where the parts contradict each other; the message names the field.
    """

    inputs: Inputs = Inputs()
    features: Features = Features()
    memory: Memory = Memory()
    paths: tuple[Path, ...] = ()
    fusion: Fusion = Fusion()
    output: Output = Output()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        problem = rules.contradiction(self)
        if problem:
            raise ValueError(problem)
        return self

    def settled(self) -> "Mixer":
        """The same mixer with every field that has no effect set to its default."""
        return Mixer.model_validate(rules.settle(self).model_dump())

    def structure(self) -> str:
        """SHA-256 of the settled description: equal for descriptions that render to the same computation."""
        text = json.dumps(self.settled().model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """The description as compact JSON with sorted keys."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Mixer":
        """Read what `to_json` wrote.

        Raises:
            ValueError: for anything that is not a valid description.
        """
        return cls.model_validate_json(text)
