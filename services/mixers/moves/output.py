"""Moves on what happens between the read and the output projection."""

from collections.abc import Mapping

from services.mixers.description import reads_keys
from services.mixers.moves.move import Change, moves, setting, where

_TEXTS = """
low_rank_output_gate (LeanGate)
    a sigmoid output gate through a narrow bottleneck
    because reads that match nothing can be silenced for few parameters
    + output-gate, low-rank-projection; by GLA
swish_output_gate (SwishGate)
    a full swish output gate, paid for with half-width keys
    because a gate per channel adds an interaction between token and memory
    + output-gate; by RETNET
low_rank_swish_gate (SwiftGate)
    a swish output gate through a narrow bottleneck
    because the token can amplify a read and not only damp it
    + output-gate, low-rank-projection; by GLA
head_output_gate (HeadGate)
    one output gate per head
    because a head that found nothing is switched off as a whole
    + output-gate; by FORGETTING
no_output_gate (Ungated)
    no output gate, and keys of full width
    because its parameters may do more elsewhere
    - output-gate
layer_norm_heads (Centred)
    layer norm on each head's read
    because a read's mean carries no content
    + output-normalisation; by RETNET
rms_norm_heads (Normed)
    RMS norm on each head's read
    because reads then enter the projection at one scale
    + output-normalisation; by TRANSNORMER
no_output_norm (Raw)
    reads that keep their size
    because the size of a read says how sure the memory is
    - output-normalisation
static_head_mixing (Talking)
    a learned map over heads
    because one head's read can complete another's
    + head-mixing; by TALKING_HEADS
dynamic_head_mixing (CrossHead)
    a map over heads that the token decides
    because which heads belong together depends on what is asked
    + head-mixing; by TALKING_HEADS
no_head_mixing (Separate)
    heads that stay apart
    because the output projection mixes them anyway
    - head-mixing
gated_value_skip (ValueSkip)
    the current value added to the read under a gate per head
    because the token's own content need not be written before it can be used
    + value-residual; by VALUE_RESIDUAL
channel_value_skip (Direct)
    the current value added to the read with a weight per channel
    because a direct term is what a state space keeps beside its state
    + value-residual; by MAMBA2
no_value_skip (Skipless)
    nothing but the read
    because the residual stream already carries the token
    - value-residual
"""
_CHANGES: Mapping[str, Change] = {
    "low_rank_output_gate": setting(output={"gate": "sigmoid", "gate_rank": "low"}),
    "swish_output_gate": where(
        reads_keys, setting(inputs={"key_width": "half"}, output={"gate": "swish", "gate_rank": "full"})
    ),
    "low_rank_swish_gate": setting(output={"gate": "swish", "gate_rank": "low"}),
    "head_output_gate": setting(output={"gate": "head"}),
    "no_output_gate": where(
        lambda m: m.output.gate != "none", setting(inputs={"key_width": "full"}, output={"gate": "none"})
    ),
    "layer_norm_heads": setting(output={"norm": "layer"}),
    "rms_norm_heads": setting(output={"norm": "rms"}),
    "no_output_norm": setting(output={"norm": "none"}),
    "static_head_mixing": setting(output={"mixing": "static"}),
    "dynamic_head_mixing": setting(output={"mixing": "dynamic"}),
    "no_head_mixing": where(lambda m: m.output.mixing != "none", setting(output={"mixing": "none"})),
    "gated_value_skip": setting(output={"skip": "gated"}),
    "channel_value_skip": setting(output={"skip": "channel"}),
    "no_value_skip": where(lambda m: m.output.skip != "none", setting(output={"skip": "none"})),
}
MOVES = moves(_TEXTS, _CHANGES)
