"""Moves on the paths beside the memory and on how they are joined."""

from services.researcher.offline.moves import sources
from services.researcher.offline.moves.move import Move, add_path, drop_path, setting, where
from services.researcher.offline.description import Mixer
from services.researcher.offline.rules import branches


def _joins(mixer: Mixer) -> bool:
    return branches(mixer) > 1


def _weighs(mixer: Mixer) -> bool:
    return _joins(mixer) and mixer.fusion.kind != "sum"


_BESIDE = ("parallel-paths", "softmax-fusion")

MOVES = (
    Move("local_convolution_path", "a convolution of eight taps beside the memory",
         "phrases need exact order, which an associative memory blurs", "Local",
         add_path("convolution", 8), ("short-convolution", *_BESIDE), (), sources.BASED),
    Move("multi_scale_path", "filters of three, seven and fifteen taps between which each token chooses",
         "words, phrases and clauses live at different spans", "MultiScale",
         add_path("multi_scale"), ("multi-scale-convolution", "content-router", *_BESIDE), (), sources.ASI_ARCH),
    Move("dilated_path", "a dilated convolution beside the memory",
         "a few taps that are spread out reach a whole sentence", "Dilated",
         add_path("dilated", 6), ("multi-scale-convolution", *_BESIDE), (), sources.WAVENET),
    Move("average_path", "an exponential average of the values with a learned speed per channel",
         "the topic of a passage is an average and need not be addressed", "Average",
         add_path("average", 24), ("multi-timescale-memory", *_BESIDE), (), sources.MEGA),
    Move("window_path", "softmax attention over the last 32 tokens beside the memory",
         "exact recall of the near past relieves the compressed memory", "Window",
         add_path("window", 32), ("local-window-attention", *_BESIDE), (), sources.BASED),
    Move("forgetting_window_path", "attention over the last 32 tokens whose scores fade with a forget gate",
         "near tokens count exactly, and less so once the context has changed", "Fading",
         add_path("forgetting", 32), ("local-window-attention", "forget-gate", *_BESIDE), (), sources.FORGETTING),
    Move("slow_memory_path", "a second, slower memory with fixed forgetting",
         "one memory follows the sentence while the other keeps the document", "TwoSpeed",
         add_path("retention"), ("multi-timescale-memory", "fixed-decay", *_BESIDE), (), sources.RETNET),
    Move("value_path", "the token's own value as a path", "what the token says itself need not pass the memory", "Identity",
         add_path("value"), ("value-residual", *_BESIDE), (), sources.VALUE_RESIDUAL),
    Move("drop_convolution_paths", "no convolution paths", "the short convolutions may cover the same ground", "Pruned",
         drop_path(frozenset({"convolution", "multi_scale", "dilated"})), (), ("multi-scale-convolution", "parallel-paths")),
    Move("drop_window_paths", "no window of exact attention", "the memory may recall well enough on its own", "Windowless",
         drop_path(frozenset({"window", "forgetting"})), (), ("local-window-attention", "parallel-paths")),
    Move("drop_slow_paths", "no slow path beside the memory", "the forget gate alone may reach far enough", "OneSpeed",
         drop_path(frozenset({"average", "retention"})), (), ("multi-timescale-memory", "parallel-paths")),
    Move("drop_value_path", "no path for the token's own value", "the residual stream already carries it", "Unskipped",
         drop_path(frozenset({"value"})), (), ("value-residual", "parallel-paths")),
    Move("summed_paths", "paths that are summed without a gate", "the output norm and projection can weigh them", "Summed",
         where(_weighs, setting(fusion={"kind": "sum"})), (), ("softmax-fusion", "sigmoid-fusion", "hierarchical-gating")),
    Move("sigmoid_fusion", "paths joined by gates that do not compete",
         "two paths can both be needed, and neither has to pay for the other", "Sigmoid",
         where(_joins, setting(fusion={"kind": "sigmoid"})), ("sigmoid-fusion",), ("softmax-fusion",), sources.ASI_ARCH),
    Move("softmax_fusion", "paths joined by weights that sum to one",
         "a fixed budget keeps the scale of the output and forces a choice", "Router",
         where(_joins, setting(fusion={"kind": "softmax"})), ("softmax-fusion", "content-router"), ("sigmoid-fusion",), sources.ASI_ARCH),
    Move("hierarchical_fusion", "gates in two stages: the memory against the rest, then the rest",
         "the coarse choice is learnt before the fine one", "Hier",
         where(lambda m: branches(m) > 2, setting(fusion={"kind": "hierarchical"})), ("hierarchical-gating",), ("softmax-fusion",), sources.ASI_ARCH),
    Move("gate_floor", "a floor below every path's weight", "a path that gets no weight gets no gradient and never recovers",
         "Floor", where(_weighs, setting(fusion={"floor": True})), ("gate-floor",), (), sources.ASI_ARCH),
    Move("no_gate_floor", "path weights that may reach zero", "a useless path should be allowed to die", "Free",
         where(lambda m: m.fusion.floor, setting(fusion={"floor": False})), (), ("gate-floor",)),
    Move("gate_temperature", "a learned sharpness of the path gate per head",
         "some heads should choose and others should blend", "Tempered",
         where(_weighs, setting(fusion={"temperature": True})), ("temperature",), (), sources.ASI_ARCH),
    Move("no_gate_temperature", "a path gate of fixed sharpness", "the gate's projection can learn its own scale", "Even",
         where(lambda m: m.fusion.temperature, setting(fusion={"temperature": False})), (), ("temperature",)),
    Move("statistics_gate", "a path gate that also sees each path's mean and size",
         "what the paths found tells more than what the token asked", "Content",
         where(_weighs, setting(fusion={"evidence": "statistics"})), ("content-router",), (), sources.ASI_ARCH),
    Move("token_gate", "a path gate that sees the token only", "the paths' statistics may be noise early on", "Token",
         where(lambda m: m.fusion.evidence == "statistics", setting(fusion={"evidence": "token"})), (), ("content-router",)),
)  # fmt: skip
