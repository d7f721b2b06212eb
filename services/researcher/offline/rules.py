"""Which descriptions make sense, and which of their fields are idle.

Kept apart from the types so that every rule can be read on one page.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.researcher.offline.description import Fusion, Memory, Mixer

POSITIVE_MAPS = frozenset({"elu", "relu", "squared_relu", "softmax", "hedgehog"})
KEYED_PATHS = frozenset({"window", "forgetting", "retention"})
SIZED_PATHS = frozenset({"convolution", "dilated", "average", "window", "forgetting"})
CHANNEL_DECAYS = frozenset({"channel", "floored"})
DELTA_RULES = frozenset({"delta", "product"})
MOST_PATHS = 3


def reads_keys(mixer: "Mixer") -> bool:
    """Whether anything in the mixer looks at queries and keys (a pure convolution does not)."""
    return mixer.memory.rule != "none" or any(path.kind in KEYED_PATHS for path in mixer.paths)


def branches(mixer: "Mixer") -> int:
    """How many outputs the fusion has to join: the memory, if there is one, and the paths."""
    return len(mixer.paths) + (mixer.memory.rule != "none")


def contradiction(mixer: "Mixer") -> str | None:
    """One sentence that names the offending field, or None where the description is sound."""
    return _memory_problem(mixer) or _path_problem(mixer) or _output_problem(mixer)


def _memory_problem(mixer: "Mixer") -> str | None:
    memory, features = mixer.memory, mixer.features
    positive = features.map in POSITIVE_MAPS
    if features.norm == "sum" and not positive:
        return "features.norm 'sum' divides by the sum of a key: choose a positive features.map"
    if memory.rule in DELTA_RULES:
        if features.norm not in {"l2", "sum"} and (features.map, features.norm) != ("softmax", "none"):
            return "memory.rule 'delta' diverges with keys longer than 1: set features.norm to 'l2'"
        if memory.decay in CHANNEL_DECAYS:
            return "memory.decay by channel is for memory.rule 'linear': use a decay by head"
        if memory.write == "channel":
            return "memory.write 'channel' is for memory.rule 'linear'"
        if memory.rule == "product" and "k" not in mixer.inputs.convolved:
            return "memory.rule 'product' tells its steps apart by convolutions of the key: inputs.convolved lacks 'k'"
        if memory.rule == "product" and (mixer.inputs.key_width == "shared" or features.rotary == "learned"):
            return "memory.rule 'product' needs keys of their own per head and no learned rotation"
        if memory.rule == "product" and features.map == "hedgehog":
            return "memory.rule 'product' has no learned feature map"
    if memory.rule == "linear" and memory.write == "double":
        return "memory.write 'double' means negative eigenvalues, which only a delta rule has"
    if memory.normalised and not (memory.rule == "linear" and positive and mixer.features.rotary == "none"):
        return "memory.normalised divides by accumulated weights: it needs rule 'linear', a positive map, no rotation"
    if memory.normalised and memory.decay in CHANNEL_DECAYS:
        return "memory.normalised is not defined with a decay by channel"
    if memory.tied and memory.decay not in CHANNEL_DECAYS:
        return "memory.tied needs a decay by channel"
    return None


def _path_problem(mixer: "Mixer") -> str | None:
    kinds = [path.kind for path in mixer.paths]
    if branches(mixer) == 0:
        return "paths is empty and memory.rule is 'none': nothing mixes the tokens"
    if kinds == ["value"] and mixer.memory.rule == "none":
        return "paths holds only the token's own value: nothing mixes the tokens"
    if len(set(kinds)) < len(kinds) or len(kinds) > MOST_PATHS:
        return f"paths must hold at most {MOST_PATHS} different kinds"
    for path in mixer.paths:
        if (path.kind in SIZED_PATHS) != (path.size > 0):
            return f"paths: size of a '{path.kind}' path must be {'positive' if path.kind in SIZED_PATHS else '0'}"
    if mixer.fusion.kind == "hierarchical" and branches(mixer) < 3:
        return "fusion.kind 'hierarchical' needs at least three branches"
    return None


def _output_problem(mixer: "Mixer") -> str | None:
    if mixer.output.norm == "none" and mixer.memory.rule == "linear" and not mixer.memory.normalised:
        return "output.norm 'none' lets an unnormalised linear memory grow with the sequence"
    if mixer.output.skip == "gated" and any(path.kind == "value" for path in mixer.paths):
        return "output.skip 'gated' and a 'value' path are the same thing twice"
    return None


def settle(mixer: "Mixer") -> "Mixer":
    """A copy in which fields without effect hold their defaults."""
    inputs, features = mixer.inputs, mixer.features
    if not reads_keys(mixer):
        inputs = inputs.model_copy(update={"convolved": "v" if "v" in inputs.convolved else "", "key_width": "full"})
        features = type(features)()
    if not inputs.convolved:
        inputs = inputs.model_copy(update={"conv_size": type(inputs)().conv_size})
    output = mixer.output
    if output.gate in {"none", "head"}:
        output = output.model_copy(update={"gate_rank": "full"})
    parts = {
        "inputs": inputs,
        "features": features,
        "memory": _settled_memory(mixer.memory),
        "paths": tuple(sorted(mixer.paths, key=lambda path: path.kind)),
        "fusion": _settled_fusion(mixer),
        "output": output,
    }
    return mixer.model_copy(update=parts)


def _settled_memory(memory: "Memory") -> "Memory":
    if memory.rule == "none":
        return type(memory)(rule="none")
    changes: dict[str, object] = {"steps": max(memory.steps, 2) if memory.rule == "product" else 1}
    if memory.rule != "linear":
        changes["bonus"] = False
    return memory.model_copy(update=changes)


def _settled_fusion(mixer: "Mixer") -> "Fusion":
    fusion = mixer.fusion
    if branches(mixer) < 2 or fusion.kind == "sum":
        return type(fusion)()
    if fusion.kind == "sigmoid":
        return fusion.model_copy(update={"temperature": False})
    return fusion
