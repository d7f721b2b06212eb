"""Moves on the paths beside the memory, on how they are joined, and on what follows up to the output projection."""

from collections.abc import Mapping

from services.mixers.description import reads_keys
from services.mixers.moves.move import Change, add_path, drop_path, moves, setting, where

_TEXTS = """
local_convolution_path (Local)
    a convolution of eight taps beside the memory
    because phrases need exact order, which an associative memory blurs
    + short-convolution, parallel-paths, softmax-fusion; by BASED
multi_scale_path (MultiScale)
    filters of three, seven and fifteen taps between which each token chooses
    because words, phrases and clauses live at different spans
    + multi-scale-convolution, content-router, parallel-paths, softmax-fusion; by ASI_ARCH
dilated_path (Dilated)
    a dilated convolution beside the memory
    because a few taps that are spread out reach a whole sentence
    + multi-scale-convolution, parallel-paths, softmax-fusion; by WAVENET
average_path (Average)
    an exponential average of the values with a learned speed per channel
    because the topic of a passage is an average and need not be addressed
    + multi-timescale-memory, parallel-paths, softmax-fusion; by MEGA
window_path (Window)
    softmax attention over the last 32 tokens beside the memory
    because exact recall of the near past relieves the compressed memory
    + local-window-attention, parallel-paths, softmax-fusion; by BASED
forgetting_window_path (Fading)
    attention over the last 32 tokens whose scores fade with a forget gate
    because near tokens count exactly, and less so once the context has changed
    + local-window-attention, forget-gate, parallel-paths, softmax-fusion; by FORGETTING
linear_window_path (LocalLinear)
    attention over the last 32 tokens that also corrects for where the query lies among the keys
    because a local linear fit has less bias than a local mean, and a second query stands in for its solver
    + local-window-attention, parallel-paths, softmax-fusion; by PARALLAX
slow_memory_path (TwoSpeed)
    a second, slower memory with fixed forgetting
    because one memory follows the sentence while the other keeps the document
    + multi-timescale-memory, fixed-decay, parallel-paths, softmax-fusion; by RETNET
routed_memories_path (Routed)
    two more memories, of which each token writes into one
    because what lies in different memories cannot overwrite each other
    + sparse-experts, parallel-paths, softmax-fusion; by MIXTURE_OF_MEMORIES
drop_routed_memories (Unrouted)
    no memories that tokens are routed to
    because two more states are dear where one is not full
    - sparse-experts
value_path (Identity)
    the token's own value as a path
    because what the token says itself need not pass the memory
    + value-residual, parallel-paths, softmax-fusion; by VALUE_RESIDUAL
drop_convolution_paths (Pruned)
    no convolution paths
    because the short convolutions may cover the same ground
    - multi-scale-convolution, parallel-paths
drop_window_paths (Windowless)
    no window of exact attention
    because the memory may recall well enough on its own
    - local-window-attention, parallel-paths
drop_slow_paths (OneSpeed)
    no slow path beside the memory
    because the forget gate alone may reach far enough
    - multi-timescale-memory, parallel-paths
drop_value_path (Unskipped)
    no path for the token's own value
    because the residual stream already carries it
    - value-residual, parallel-paths
summed_paths (Summed): fusion.kind=sum
    paths that are summed without a gate
    because the output norm and projection can weigh them
    - softmax-fusion, sigmoid-fusion, hierarchical-gating
sigmoid_fusion (Sigmoid): fusion.kind=sigmoid
    paths joined by gates that do not compete
    because two paths can both be needed, and neither has to pay for the other
    + sigmoid-fusion; - softmax-fusion; by ASI_ARCH
softmax_fusion (Router): fusion.kind=softmax
    paths joined by weights that sum to one
    because a fixed budget keeps the scale of the output and forces a choice
    + softmax-fusion, content-router; - sigmoid-fusion; by ASI_ARCH
hierarchical_fusion (Hier): fusion.kind=hierarchical
    gates in two stages: the memory against the rest, then the rest
    because the coarse choice is learnt before the fine one
    + hierarchical-gating; - softmax-fusion; by ASI_ARCH
gate_floor (Floor): fusion.floor=true
    a floor below every path's weight
    because a path that gets no weight gets no gradient and never recovers
    + gate-floor; by ASI_ARCH
no_gate_floor (Free): fusion.floor=false
    path weights that may reach zero
    because a useless path should be allowed to die
    - gate-floor
gate_temperature (Tempered): fusion.temperature=true
    a learned sharpness of the path gate per head
    because some heads should choose and others should blend
    + temperature; by ASI_ARCH
no_gate_temperature (Even): fusion.temperature=false
    a path gate of fixed sharpness
    because the gate's projection can learn its own scale
    - temperature
statistics_gate (Content): fusion.evidence=statistics
    a path gate that also sees each path's mean and size
    because what the paths found tells more than what the token asked
    + content-router; by ASI_ARCH
token_gate (Token): fusion.evidence=token
    a path gate that sees the token only
    because the paths' statistics may be noise early on
    - content-router
low_rank_output_gate (LeanGate): output.gate=sigmoid, output.gate_rank=low
    a sigmoid output gate through a narrow bottleneck
    because reads that match nothing can be silenced for few parameters
    + output-gate, low-rank-projection; by GLA
swish_output_gate (SwishGate)
    a full swish output gate, paid for with half-width keys
    because a gate per channel adds an interaction between token and memory
    + output-gate; by RETNET
low_rank_swish_gate (SwiftGate): output.gate=swish, output.gate_rank=low
    a swish output gate through a narrow bottleneck
    because the token can amplify a read and not only damp it
    + output-gate, low-rank-projection; by GLA
head_output_gate (HeadGate): output.gate=head
    one output gate per head
    because a head that found nothing is switched off as a whole
    + output-gate; by FORGETTING
no_output_gate (Ungated)
    no output gate, and keys of full width
    because its parameters may do more elsewhere
    - output-gate
layer_norm_heads (Centred): output.norm=layer
    layer norm on each head's read
    because a read's mean carries no content
    + output-normalisation; by RETNET
rms_norm_heads (Normed): output.norm=rms
    RMS norm on each head's read
    because reads then enter the projection at one scale
    + output-normalisation; by TRANSNORMER
no_output_norm (Raw): output.norm=none
    reads that keep their size
    because the size of a read says how sure the memory is
    - output-normalisation
static_head_mixing (Talking): output.mixing=static
    a learned map over heads
    because one head's read can complete another's
    + head-mixing; by TALKING_HEADS
dynamic_head_mixing (CrossHead): output.mixing=dynamic
    a map over heads that the token decides
    because which heads belong together depends on what is asked
    + head-mixing; by TALKING_HEADS
no_head_mixing (Separate): output.mixing=none
    heads that stay apart
    because the output projection mixes them anyway
    - head-mixing
gated_value_skip (ValueSkip): output.skip=gated
    the current value added to the read under a gate per head
    because the token's own content need not be written before it can be used
    + value-residual; by VALUE_RESIDUAL
channel_value_skip (Direct): output.skip=channel
    the current value added to the read with a weight per channel
    because a direct term is what a state space keeps beside its state
    + value-residual; by MAMBA2
no_value_skip (Skipless): output.skip=none
    nothing but the read
    because the residual stream already carries the token
    - value-residual
"""
_CHANGES: Mapping[str, Change] = {
    "local_convolution_path": add_path("convolution", 8),
    "multi_scale_path": add_path("multi_scale"),
    "dilated_path": add_path("dilated", 6),
    "average_path": add_path("average", 24),
    "window_path": add_path("window", 32),
    "forgetting_window_path": add_path("forgetting", 32),
    "linear_window_path": add_path("linear_window", 32),
    "slow_memory_path": add_path("retention"),
    "routed_memories_path": add_path("routed"),
    "drop_routed_memories": drop_path(frozenset({"routed"})),
    "value_path": add_path("value"),
    "drop_convolution_paths": drop_path(frozenset({"convolution", "multi_scale", "dilated"})),
    "drop_window_paths": drop_path(frozenset({"window", "linear_window", "forgetting"})),
    "drop_slow_paths": drop_path(frozenset({"average", "retention"})),
    "drop_value_path": drop_path(frozenset({"value"})),
    "swish_output_gate": where(
        reads_keys, setting(inputs={"key_width": "half"}, output={"gate": "swish", "gate_rank": "full"})
    ),
    "no_output_gate": where(
        lambda m: m.output.gate != "none", setting(inputs={"key_width": "full"}, output={"gate": "none"})
    ),
}
MOVES = moves(_TEXTS, _CHANGES)
