"""Moves on the paths beside the memory and on how they are joined."""

from collections.abc import Mapping

from services.mixers.description import Mixer, branches
from services.mixers.moves.move import Change, add_path, drop_path, moves, setting, where


def _joins(mixer: Mixer) -> bool:
    return branches(mixer) > 1


def _weighs(mixer: Mixer) -> bool:
    return _joins(mixer) and mixer.fusion.kind != "sum"


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
summed_paths (Summed)
    paths that are summed without a gate
    because the output norm and projection can weigh them
    - softmax-fusion, sigmoid-fusion, hierarchical-gating
sigmoid_fusion (Sigmoid)
    paths joined by gates that do not compete
    because two paths can both be needed, and neither has to pay for the other
    + sigmoid-fusion; - softmax-fusion; by ASI_ARCH
softmax_fusion (Router)
    paths joined by weights that sum to one
    because a fixed budget keeps the scale of the output and forces a choice
    + softmax-fusion, content-router; - sigmoid-fusion; by ASI_ARCH
hierarchical_fusion (Hier)
    gates in two stages: the memory against the rest, then the rest
    because the coarse choice is learnt before the fine one
    + hierarchical-gating; - softmax-fusion; by ASI_ARCH
gate_floor (Floor)
    a floor below every path's weight
    because a path that gets no weight gets no gradient and never recovers
    + gate-floor; by ASI_ARCH
no_gate_floor (Free)
    path weights that may reach zero
    because a useless path should be allowed to die
    - gate-floor
gate_temperature (Tempered)
    a learned sharpness of the path gate per head
    because some heads should choose and others should blend
    + temperature; by ASI_ARCH
no_gate_temperature (Even)
    a path gate of fixed sharpness
    because the gate's projection can learn its own scale
    - temperature
statistics_gate (Content)
    a path gate that also sees each path's mean and size
    because what the paths found tells more than what the token asked
    + content-router; by ASI_ARCH
token_gate (Token)
    a path gate that sees the token only
    because the paths' statistics may be noise early on
    - content-router
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
    "summed_paths": where(_weighs, setting(fusion={"kind": "sum"})),
    "sigmoid_fusion": where(_joins, setting(fusion={"kind": "sigmoid"})),
    "softmax_fusion": where(_joins, setting(fusion={"kind": "softmax"})),
    "hierarchical_fusion": where(lambda m: branches(m) > 2, setting(fusion={"kind": "hierarchical"})),
    "gate_floor": where(_weighs, setting(fusion={"floor": True})),
    "no_gate_floor": where(lambda m: m.fusion.floor, setting(fusion={"floor": False})),
    "gate_temperature": where(_weighs, setting(fusion={"temperature": True})),
    "no_gate_temperature": where(lambda m: m.fusion.temperature, setting(fusion={"temperature": False})),
    "statistics_gate": where(_weighs, setting(fusion={"evidence": "statistics"})),
    "token_gate": where(lambda m: m.fusion.evidence == "statistics", setting(fusion={"evidence": "token"})),
}
MOVES = moves(_TEXTS, _CHANGES)
