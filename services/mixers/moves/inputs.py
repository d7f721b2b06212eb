"""Moves on what comes before the memory: shift, convolutions, features, norms, rotations."""

from collections.abc import Callable, Mapping

from services.mixers.description import Mixer, reads_keys
from services.mixers.moves.move import Change, changed, moves, setting, where


def _mapped(kind: str, condition: Callable[[Mixer], bool] = reads_keys) -> Change:
    """Another feature map, with keys of unit length."""
    return where(condition, setting(features={"map": kind, "norm": "l2"}))


def _is_unnormalised(mixer: Mixer) -> bool:
    return reads_keys(mixer) and not mixer.memory.normalised


_TEXTS = """
half_token_shift (Shift)
    half of the channels shifted by one token
    because neighbours reach the projections without any parameter
    + token-shift; by RWKV
learned_token_shift (BlendShift)
    a learned blend with the token before
    because each channel can decide how local it wants to be
    + token-shift; by RWKV
dynamic_token_shift (DynamicShift)
    a blend with the token before that the token decides
    because how much of the neighbour matters depends on the word
    + token-shift, low-rank-projection; by EAGLE_FINCH
canon_convolution (Canon)
    a residual convolution of four taps over the hidden states
    because every projection then sees its neighbours, and the token itself still passes unchanged
    + token-shift, short-convolution; by CANON
no_token_shift (Unshifted)
    no blend with the token before
    because short convolutions already look back
    - token-shift
short_convolutions (Conv)
    short convolutions on queries, keys and values
    because a key that has seen its neighbours can be matched by what follows it
    + short-convolution; by MAMBA
convolution_size (WideConv)
    another width of the short convolutions
    because the width decides which n-grams a key can stand for
    + short-convolution; by PRIMER
keys_and_values_convolved (FreeQuery)
    short convolutions on keys and values only
    because queries may ask about the token itself
    + short-convolution
queries_and_keys_convolved (FreeValue)
    short convolutions on queries and keys only
    because values stay the words themselves while their addresses see the context
    + short-convolution
no_convolutions (Convless)
    no short convolutions
    because the other paths may do their work already
    - short-convolution
shared_keys (SharedKey)
    one wide key and query for all heads, and an output gate for the parameters saved
    because a wider key tells more contexts apart at the same number of parameters
    + shared-state, state-expansion, output-gate; by MULTI_QUERY
keys_per_head (HeadKey)
    a query and key for each head
    because heads can then look for different things
    - shared-state
value_norm (NormedValue)
    values normalised per head before they are written
    because no single token can then drown the others in the memory
    + qk-normalisation, state-normalisation
no_value_norm (RawValue)
    values written as they are
    because the size of a value carries information
    - state-normalisation
elu_features (Elu)
    positive keys by a shifted ELU
    because positive features make every weight a share
    + feature-map; by LINEAR_ATTENTION
relu_features (Relu)
    rectified keys
    because sparse keys collide less
    + feature-map
squared_relu_features (Sharp)
    squared rectified keys
    because squares sharpen the contrast between near and far keys
    + feature-map; by PRIMER
softmax_features (Slot)
    keys that are soft one-hots
    because a key then points at few slots of the memory
    + feature-map
hedgehog_features (Hedgehog)
    a learned feature map ending in a softmax
    because such a map can imitate the spiky weights of softmax attention
    + feature-map, state-expansion; by HEDGEHOG
silu_features (Silu)
    SiLU keys
    because features of both signs can cancel, so more keys fit
    + feature-map; by DELTA_NET
identity_features (Bare)
    keys without a feature map
    because the projection alone may be a good address
    - feature-map
l2_keys (UnitKey)
    queries and keys of unit length
    because scores then depend on direction only
    + qk-normalisation; by QK_NORM
rms_keys (RmsKey)
    queries and keys under RMS norm with learned scales
    because learned scales can weigh the channels of an address
    + qk-normalisation; by QK_NORM
sum_keys (SumKey)
    keys divided by their sum
    because writes then have the same total weight
    + qk-normalisation
rotary_phases (Rotary)
    rotary phases on queries and keys
    because scores then know the distance between tokens
    + rotary-phase; by ROFORMER
half_rotary_phases (HalfRotary)
    rotary phases on half of the channels
    because part of an address knows distance, the rest recalls content at any distance
    + rotary-phase; by ROFORMER
learned_rotary_phases (Phase)
    rotary phases with learned speeds
    because each head finds the periods that matter to it
    + rotary-phase, complex-state
no_rotary_phases (Unrotated)
    no rotation of queries and keys
    because forgetting already tells near from far
    - rotary-phase
"""
_CHANGES: Mapping[str, Change] = {
    "half_token_shift": setting(inputs={"shift": "half"}),
    "learned_token_shift": setting(inputs={"shift": "learned"}),
    "dynamic_token_shift": setting(inputs={"shift": "dynamic"}),
    "canon_convolution": setting(inputs={"shift": "canon"}),
    "no_token_shift": where(lambda m: m.inputs.shift != "none", setting(inputs={"shift": "none"})),
    "short_convolutions": setting(inputs={"convolved": "qkv"}),
    "convolution_size": where(
        lambda m: bool(m.inputs.convolved),
        lambda m: changed(m, inputs={"conv_size": 8 if m.inputs.conv_size < 8 else 4}),
    ),
    "keys_and_values_convolved": where(reads_keys, setting(inputs={"convolved": "kv"})),
    "queries_and_keys_convolved": where(reads_keys, setting(inputs={"convolved": "qk"})),
    "no_convolutions": setting(inputs={"convolved": "", "conv_size": 4}),
    "shared_keys": where(
        reads_keys, setting(inputs={"key_width": "shared"}, output={"gate": "swish", "gate_rank": "full"})
    ),
    "keys_per_head": where(
        lambda m: m.inputs.key_width == "shared", setting(inputs={"key_width": "full"}, output={"gate_rank": "low"})
    ),
    "value_norm": setting(inputs={"value_norm": True}),
    "no_value_norm": where(lambda m: m.inputs.value_norm, setting(inputs={"value_norm": False})),
    "elu_features": _mapped("elu"),
    "relu_features": _mapped("relu"),
    "squared_relu_features": _mapped("squared_relu"),
    "softmax_features": _mapped("softmax"),
    "hedgehog_features": _mapped("hedgehog"),
    "silu_features": _mapped("silu", _is_unnormalised),
    "identity_features": _mapped("identity", _is_unnormalised),
    "l2_keys": where(reads_keys, setting(features={"norm": "l2"})),
    "rms_keys": where(reads_keys, setting(features={"norm": "rms"})),
    "sum_keys": where(reads_keys, setting(features={"norm": "sum"})),
    "rotary_phases": where(reads_keys, setting(features={"rotary": "full"})),
    "half_rotary_phases": where(reads_keys, setting(features={"rotary": "half"})),
    "learned_rotary_phases": where(reads_keys, setting(features={"rotary": "learned"})),
    "no_rotary_phases": where(lambda m: m.features.rotary != "none", setting(features={"rotary": "none"})),
}
MOVES = moves(_TEXTS, _CHANGES)
