"""Moves on what happens between the read and the output projection."""

from services.researcher.offline.moves import sources
from services.researcher.offline.moves.move import Move, setting, where
from services.researcher.offline.rules import reads_keys

MOVES = (
    Move("low_rank_output_gate", "a sigmoid output gate through a narrow bottleneck",
         "reads that match nothing can be silenced for few parameters", "LeanGate",
         setting(output={"gate": "sigmoid", "gate_rank": "low"}), ("output-gate", "low-rank-projection"), (), sources.GLA),
    Move("swish_output_gate", "a full swish output gate, paid for with half-width keys",
         "a gate per channel adds an interaction between token and memory", "SwishGate",
         where(reads_keys, setting(inputs={"key_width": "half"}, output={"gate": "swish", "gate_rank": "full"})),
         ("output-gate",), (), sources.RETNET),
    Move("low_rank_swish_gate", "a swish output gate through a narrow bottleneck",
         "the token can amplify a read and not only damp it", "SwiftGate",
         setting(output={"gate": "swish", "gate_rank": "low"}), ("output-gate", "low-rank-projection"), (), sources.GLA),
    Move("head_output_gate", "one output gate per head", "a head that found nothing is switched off as a whole", "HeadGate",
         setting(output={"gate": "head"}), ("output-gate",), (), sources.FORGETTING),
    Move("no_output_gate", "no output gate", "its parameters may do more elsewhere", "Ungated",
         where(lambda m: m.output.gate != "none", setting(output={"gate": "none"})), (), ("output-gate",)),
    Move("layer_norm_heads", "layer norm on each head's read", "a read's mean carries no content", "Centred",
         setting(output={"norm": "layer"}), ("output-normalisation",), (), sources.RETNET),
    Move("rms_norm_heads", "RMS norm on each head's read", "reads then enter the projection at one scale", "Normed",
         setting(output={"norm": "rms"}), ("output-normalisation",), (), sources.TRANSNORMER),
    Move("no_output_norm", "reads that keep their size", "the size of a read says how sure the memory is", "Raw",
         setting(output={"norm": "none"}), (), ("output-normalisation",)),
    Move("static_head_mixing", "a learned map over heads", "one head's read can complete another's", "Talking",
         setting(output={"mixing": "static"}), ("head-mixing",), (), sources.TALKING_HEADS),
    Move("dynamic_head_mixing", "a map over heads that the token decides",
         "which heads belong together depends on what is asked", "CrossHead",
         setting(output={"mixing": "dynamic"}), ("head-mixing",), (), sources.TALKING_HEADS),
    Move("no_head_mixing", "heads that stay apart", "the output projection mixes them anyway", "Separate",
         where(lambda m: m.output.mixing != "none", setting(output={"mixing": "none"})), (), ("head-mixing",)),
    Move("gated_value_skip", "the current value added to the read under a gate per head",
         "the token's own content need not be written before it can be used", "ValueSkip",
         setting(output={"skip": "gated"}), ("value-residual",), (), sources.VALUE_RESIDUAL),
    Move("channel_value_skip", "the current value added to the read with a weight per channel",
         "a direct term is what a state space keeps beside its state", "Direct",
         setting(output={"skip": "channel"}), ("value-residual",), (), sources.MAMBA2),
    Move("no_value_skip", "nothing but the read", "the residual stream already carries the token", "Skipless",
         where(lambda m: m.output.skip != "none", setting(output={"skip": "none"})), (), ("value-residual",)),
)  # fmt: skip
