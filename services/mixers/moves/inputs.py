"""Moves on what comes before the memory: shift, convolutions, features, norms, rotations."""

from services.mixers.description import Mixer, reads_keys
from services.mixers.moves.move import Move, Papers, changed, setting, where


def _shifts(mixer: Mixer) -> bool:
    return mixer.inputs.shift != "none"


def _wider_convolution(mixer: Mixer) -> Mixer:
    return changed(mixer, inputs={"conv_size": 8 if mixer.inputs.conv_size < 8 else 4})


def _shared_keys(mixer: Mixer) -> Mixer:
    return changed(mixer, inputs={"key_width": "shared"}, output={"gate": "swish", "gate_rank": "full"})


def _keys_per_head(mixer: Mixer) -> Mixer:
    return changed(mixer, inputs={"key_width": "full"}, output={"gate_rank": "low"})


def _positive(kind: str, norm: str = "l2") -> dict[str, dict[str, str]]:
    return {"features": {"map": kind, "norm": norm}}


MOVES = (
    Move(
        "half_token_shift",
        "half of the channels shifted by one token",
        "neighbours reach the projections without any parameter",
        "Shift",
        setting(inputs={"shift": "half"}),
        ("token-shift",),
        Papers.RWKV,
    ),
    Move(
        "learned_token_shift",
        "a learned blend with the token before",
        "each channel can decide how local it wants to be",
        "BlendShift",
        setting(inputs={"shift": "learned"}),
        ("token-shift",),
        Papers.RWKV,
    ),
    Move(
        "dynamic_token_shift",
        "a blend with the token before that the token decides",
        "how much of the neighbour matters depends on the word",
        "DynamicShift",
        setting(inputs={"shift": "dynamic"}),
        ("token-shift", "low-rank-projection"),
        Papers.EAGLE_FINCH,
    ),
    Move(
        "canon_convolution",
        "a residual convolution of four taps over the hidden states",
        "every projection then sees its neighbours, and the token itself still passes unchanged",
        "Canon",
        setting(inputs={"shift": "canon"}),
        ("token-shift", "short-convolution"),
        Papers.CANON,
    ),
    Move(
        "no_token_shift",
        "no blend with the token before",
        "short convolutions already look back",
        "Unshifted",
        where(_shifts, setting(inputs={"shift": "none"})),
        removes=("token-shift",),
    ),
    Move(
        "short_convolutions",
        "short convolutions on queries, keys and values",
        "a key that has seen its neighbours can be matched by what follows it",
        "Conv",
        setting(inputs={"convolved": "qkv"}),
        ("short-convolution",),
        Papers.MAMBA,
    ),
    Move(
        "convolution_size",
        "another width of the short convolutions",
        "the width decides which n-grams a key can stand for",
        "WideConv",
        where(lambda m: bool(m.inputs.convolved), _wider_convolution),
        ("short-convolution",),
        Papers.PRIMER,
    ),
    Move(
        "keys_and_values_convolved",
        "short convolutions on keys and values only",
        "queries may ask about the token itself",
        "FreeQuery",
        where(reads_keys, setting(inputs={"convolved": "kv"})),
        ("short-convolution",),
    ),
    Move(
        "queries_and_keys_convolved",
        "short convolutions on queries and keys only",
        "values stay the words themselves while their addresses see the context",
        "FreeValue",
        where(reads_keys, setting(inputs={"convolved": "qk"})),
        ("short-convolution",),
    ),
    Move(
        "no_convolutions",
        "no short convolutions",
        "the other paths may do their work already",
        "Convless",
        setting(inputs={"convolved": "", "conv_size": 4}),
        removes=("short-convolution",),
    ),
    Move(
        "shared_keys",
        "one wide key and query for all heads, and an output gate for the parameters saved",
        "a wider key tells more contexts apart at the same number of parameters",
        "SharedKey",
        where(reads_keys, _shared_keys),
        ("shared-state", "state-expansion", "output-gate"),
        Papers.MULTI_QUERY,
    ),
    Move(
        "keys_per_head",
        "a query and key for each head",
        "heads can then look for different things",
        "HeadKey",
        where(lambda m: m.inputs.key_width == "shared", _keys_per_head),
        removes=("shared-state",),
    ),
    Move(
        "value_norm",
        "values normalised per head before they are written",
        "no single token can then drown the others in the memory",
        "NormedValue",
        setting(inputs={"value_norm": True}),
        ("qk-normalisation", "state-normalisation"),
    ),
    Move(
        "no_value_norm",
        "values written as they are",
        "the size of a value carries information",
        "RawValue",
        where(lambda m: m.inputs.value_norm, setting(inputs={"value_norm": False})),
        removes=("state-normalisation",),
    ),
    Move(
        "elu_features",
        "positive keys by a shifted ELU",
        "positive features make every weight a share",
        "Elu",
        where(reads_keys, setting(**_positive("elu"))),
        ("feature-map",),
        Papers.LINEAR_ATTENTION,
    ),
    Move(
        "relu_features",
        "rectified keys",
        "sparse keys collide less",
        "Relu",
        where(reads_keys, setting(**_positive("relu"))),
        ("feature-map",),
    ),
    Move(
        "squared_relu_features",
        "squared rectified keys",
        "squares sharpen the contrast between near and far keys",
        "Sharp",
        where(reads_keys, setting(**_positive("squared_relu"))),
        ("feature-map",),
        Papers.PRIMER,
    ),
    Move(
        "softmax_features",
        "keys that are soft one-hots",
        "a key then points at few slots of the memory",
        "Slot",
        where(reads_keys, setting(**_positive("softmax"))),
        ("feature-map",),
    ),
    Move(
        "hedgehog_features",
        "a learned feature map ending in a softmax",
        "such a map can imitate the spiky weights of softmax attention",
        "Hedgehog",
        where(reads_keys, setting(**_positive("hedgehog"))),
        ("feature-map", "state-expansion"),
        Papers.HEDGEHOG,
    ),
    Move(
        "silu_features",
        "SiLU keys",
        "features of both signs can cancel, so more keys fit",
        "Silu",
        where(lambda m: reads_keys(m) and not m.memory.normalised, setting(features={"map": "silu", "norm": "l2"})),
        ("feature-map",),
        Papers.DELTA_NET,
    ),
    Move(
        "identity_features",
        "keys without a feature map",
        "the projection alone may be a good address",
        "Bare",
        where(lambda m: reads_keys(m) and not m.memory.normalised, setting(features={"map": "identity", "norm": "l2"})),
        removes=("feature-map",),
    ),
    Move(
        "l2_keys",
        "queries and keys of unit length",
        "scores then depend on direction only",
        "UnitKey",
        where(reads_keys, setting(features={"norm": "l2"})),
        ("qk-normalisation",),
        Papers.QK_NORM,
    ),
    Move(
        "rms_keys",
        "queries and keys under RMS norm with learned scales",
        "learned scales can weigh the channels of an address",
        "RmsKey",
        where(reads_keys, setting(features={"norm": "rms"})),
        ("qk-normalisation",),
        Papers.QK_NORM,
    ),
    Move(
        "sum_keys",
        "keys divided by their sum",
        "writes then have the same total weight",
        "SumKey",
        where(reads_keys, setting(features={"norm": "sum"})),
        ("qk-normalisation",),
    ),
    Move(
        "rotary_phases",
        "rotary phases on queries and keys",
        "scores then know the distance between tokens",
        "Rotary",
        where(reads_keys, setting(features={"rotary": "full"})),
        ("rotary-phase",),
        Papers.ROFORMER,
    ),
    Move(
        "half_rotary_phases",
        "rotary phases on half of the channels",
        "part of an address knows distance, the rest recalls content at any distance",
        "HalfRotary",
        where(reads_keys, setting(features={"rotary": "half"})),
        ("rotary-phase",),
        Papers.ROFORMER,
    ),
    Move(
        "learned_rotary_phases",
        "rotary phases with learned speeds",
        "each head finds the periods that matter to it",
        "Phase",
        where(reads_keys, setting(features={"rotary": "learned"})),
        ("rotary-phase", "complex-state"),
    ),
    Move(
        "no_rotary_phases",
        "no rotation of queries and keys",
        "forgetting already tells near from far",
        "Unrotated",
        where(lambda m: m.features.rotary != "none", setting(features={"rotary": "none"})),
        removes=("rotary-phase",),
    ),
)
