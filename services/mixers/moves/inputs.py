"""Moves on what comes before the memory: shift, convolutions, features, norms, rotations."""

from collections.abc import Mapping

from services.mixers.description import reads_keys
from services.mixers.moves.move import Change, changed, moves, setting, where

_TEXTS = """
half_token_shift (Shift): inputs.shift=half
    half of the channels shifted by one token
    because neighbours reach the projections without any parameter
    + token-shift; by RWKV
learned_token_shift (BlendShift): inputs.shift=learned
    a learned blend with the token before
    because each channel can decide how local it wants to be
    + token-shift; by RWKV
dynamic_token_shift (DynamicShift): inputs.shift=dynamic
    a blend with the token before that the token decides
    because how much of the neighbour matters depends on the word
    + token-shift, low-rank-projection; by EAGLE_FINCH
canon_convolution (Canon): inputs.shift=canon
    a residual convolution of four taps over the hidden states
    because every projection then sees its neighbours, and the token itself still passes unchanged
    + token-shift, short-convolution; by CANON
no_token_shift (Unshifted): inputs.shift=none
    no blend with the token before
    because short convolutions already look back
    - token-shift
short_convolutions (Conv): inputs.convolved=qkv
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
no_convolutions (Convless): inputs.convolved=, inputs.conv_size=4
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
value_norm (NormedValue): inputs.value_norm=true
    values normalised per head before they are written
    because no single token can then drown the others in the memory
    + qk-normalisation, state-normalisation
no_value_norm (RawValue): inputs.value_norm=false
    values written as they are
    because the size of a value carries information
    - state-normalisation
elu_features (Elu): features.map=elu, features.norm=l2
    positive keys by a shifted ELU
    because positive features make every weight a share
    + feature-map; by LINEAR_ATTENTION
relu_features (Relu): features.map=relu, features.norm=l2
    rectified keys
    because sparse keys collide less
    + feature-map
squared_relu_features (Sharp): features.map=squared_relu, features.norm=l2
    squared rectified keys
    because squares sharpen the contrast between near and far keys
    + feature-map; by PRIMER
softmax_features (Slot): features.map=softmax, features.norm=l2
    keys that are soft one-hots
    because a key then points at few slots of the memory
    + feature-map
hedgehog_features (Hedgehog): features.map=hedgehog, features.norm=l2
    a learned feature map ending in a softmax
    because such a map can imitate the spiky weights of softmax attention
    + feature-map, state-expansion; by HEDGEHOG
silu_features (Silu): features.map=silu, features.norm=l2
    SiLU keys
    because features of both signs can cancel, so more keys fit
    + feature-map; by DELTA_NET
identity_features (Bare): features.map=identity, features.norm=l2
    keys without a feature map
    because the projection alone may be a good address
    - feature-map
l2_keys (UnitKey): features.norm=l2
    queries and keys of unit length
    because scores then depend on direction only
    + qk-normalisation; by QK_NORM
rms_keys (RmsKey): features.norm=rms
    queries and keys under RMS norm with learned scales
    because learned scales can weigh the channels of an address
    + qk-normalisation; by QK_NORM
sum_keys (SumKey): features.norm=sum
    keys divided by their sum
    because writes then have the same total weight
    + qk-normalisation
rotary_phases (Rotary): features.rotary=full
    rotary phases on queries and keys
    because scores then know the distance between tokens
    + rotary-phase; by ROFORMER
half_rotary_phases (HalfRotary): features.rotary=half
    rotary phases on half of the channels
    because part of an address knows distance, the rest recalls content at any distance
    + rotary-phase; by ROFORMER
learned_rotary_phases (Phase): features.rotary=learned
    rotary phases with learned speeds
    because each head finds the periods that matter to it
    + rotary-phase, complex-state
no_rotary_phases (Unrotated): features.rotary=none
    no rotation of queries and keys
    because forgetting already tells near from far
    - rotary-phase
"""
_CHANGES: Mapping[str, Change] = {
    "convolution_size": where(
        lambda m: bool(m.inputs.convolved),
        lambda m: changed(m, inputs={"conv_size": 8 if m.inputs.conv_size < 8 else 4}),
    ),
    "keys_and_values_convolved": where(reads_keys, setting(inputs={"convolved": "kv"})),
    "queries_and_keys_convolved": where(reads_keys, setting(inputs={"convolved": "qk"})),
    "shared_keys": where(
        reads_keys, setting(inputs={"key_width": "shared"}, output={"gate": "swish", "gate_rank": "full"})
    ),
    "keys_per_head": where(
        lambda m: m.inputs.key_width == "shared", setting(inputs={"key_width": "full"}, output={"gate_rank": "low"})
    ),
}
MOVES = moves(_TEXTS, _CHANGES)
