"""The components a description is made of, in the words of the fixed vocabulary."""

from collections.abc import Iterator

from services.mixers.description import Mixer, branches, reads_keys

_RULES = {"delta": ("delta-rule",), "product": ("delta-rule", "householder-product"), "linear": ("additive-state",)}
_DECAYS = {
    "retention": ("fixed-decay",),
    "mamba": ("forget-gate", "selective-ssm"),
    "sigmoid": ("forget-gate",),
    "channel": ("forget-gate", "low-rank-projection"),
    "floored": ("forget-gate", "gate-floor", "low-rank-projection"),
}
_WRITES = {
    "sigmoid": ("write-strength",),
    "double": ("write-strength", "negative-eigenvalues"),
    "channel": ("input-gate", "low-rank-projection"),
    "split": ("write-strength", "input-gate", "low-rank-projection"),
}
_PATHS = {
    "convolution": "short-convolution",
    "multi_scale": "multi-scale-convolution",
    "dilated": "multi-scale-convolution",
    "average": "multi-timescale-memory",
    "window": "local-window-attention",
    "forgetting": "local-window-attention",
    "retention": "multi-timescale-memory",
    "value": "value-residual",
}
_FUSIONS = {"sigmoid": "sigmoid-fusion", "softmax": "softmax-fusion", "hierarchical": "hierarchical-gating"}


def components_of(mixer: Mixer) -> tuple[str, ...]:
    """Component names in the order of the mixer's parts, each once."""
    mixer = mixer.settled()
    return tuple(dict.fromkeys((*_of_memory(mixer), *_of_inputs(mixer), *_of_paths(mixer), *_of_output(mixer))))


def _of_memory(mixer: Mixer) -> Iterator[str]:
    memory = mixer.memory
    if memory.rule == "none":
        return
    yield from (*_RULES[memory.rule], *_DECAYS.get(memory.decay, ()), *_WRITES.get(memory.write, ()), "chunkwise-form")
    flags = {"input-gate": memory.tied, "state-normalisation": memory.normalised, "value-residual": memory.bonus}
    yield from (name for name, present in flags.items() if present)


def _of_inputs(mixer: Mixer) -> Iterator[str]:
    inputs, features = mixer.inputs, mixer.features
    flags = {
        "token-shift": inputs.shift != "none",
        "short-convolution": bool(inputs.convolved) or inputs.shift == "canon",
        "shared-state": inputs.key_width == "shared",
        "state-normalisation": inputs.value_norm,
        "feature-map": reads_keys(mixer) and features.map != "identity",
        "qk-normalisation": reads_keys(mixer) and features.norm != "none",
        "rotary-phase": features.rotary != "none",
    }
    yield from (name for name, present in flags.items() if present)


def _of_paths(mixer: Mixer) -> Iterator[str]:
    if branches(mixer) > 1:
        yield "parallel-paths"
    yield from (_PATHS[path.kind] for path in mixer.paths)
    fusion = mixer.fusion
    if fusion.kind in _FUSIONS:
        yield _FUSIONS[fusion.kind]
    flags = {"gate-floor": fusion.floor, "temperature": fusion.temperature}
    yield from (name for name, present in flags.items() if present)
    if fusion.evidence == "statistics":
        yield "content-router"


def _of_output(mixer: Mixer) -> Iterator[str]:
    output = mixer.output
    flags = {
        "output-gate": output.gate != "none",
        "low-rank-projection": output.gate_rank == "low",
        "output-normalisation": output.norm != "none",
        "head-mixing": output.mixing != "none",
        "value-residual": output.skip != "none",
    }
    yield from (name for name, present in flags.items() if present)
