"""The components of a described mixer, in the vocabulary of `services.domain.components`."""

from services.mixers.description import Mixer, branches, reads_keys

_RULES = {"delta": ("delta-rule",), "product": ("delta-rule", "householder-product"), "linear": ("additive-state",)}
_DECAYS = {
    "retention": ("fixed-decay",),
    "momentum": ("fixed-decay", "state-momentum"),
    "mamba": ("forget-gate", "selective-ssm"),
    "sigmoid": ("forget-gate",),
    "channel": ("forget-gate", "low-rank-projection"),
    "floored": ("forget-gate", "gate-floor", "low-rank-projection"),
    "sparse": ("forget-gate", "memory-slots", "content-router", "low-rank-projection"),
}
_WRITES = {
    "sigmoid": ("write-strength",),
    "double": ("write-strength", "negative-eigenvalues"),
    "channel": ("input-gate", "low-rank-projection"),
    "split": ("write-strength", "input-gate", "low-rank-projection"),
    "implicit": ("write-strength", "test-time-learning"),
    "preconditioned": ("write-strength", "state-momentum"),
}
_FORMS = {
    "trapezoid": ("token-shift",),
    "levels": ("hierarchical-memory", "multi-timescale-memory"),
    "mesa": ("test-time-learning", "dense-transition"),
    "ridge": ("test-time-learning", "dense-transition"),
    "householder": ("householder-product", "rotary-phase", "low-rank-projection"),
    "ages": ("memory-slots", "multi-timescale-memory", "rotary-phase"),
}
_PATHS = {
    "convolution": "short-convolution",
    "multi_scale": "multi-scale-convolution",
    "dilated": "multi-scale-convolution",
    "average": "multi-timescale-memory",
    "window": "local-window-attention",
    "linear_window": "local-window-attention",
    "forgetting": "local-window-attention",
    "retention": "multi-timescale-memory",
    "routed": "sparse-experts",
    "value": "value-residual",
}
_FUSIONS = {"sigmoid": "sigmoid-fusion", "softmax": "softmax-fusion", "hierarchical": "hierarchical-gating"}


def components_of(mixer: Mixer) -> tuple[str, ...]:
    """Component names in the order of the mixer's parts, without duplicates."""
    mixer = mixer.canonical()
    inputs, features, memory, fusion, output = mixer.inputs, mixer.features, mixer.memory, mixer.fusion, mixer.output
    parts: list[tuple[str, bool]] = []
    if memory.rule != "none":
        kinds = [*_RULES[memory.rule], *_DECAYS.get(memory.decay, ()), *_WRITES.get(memory.write, ())]
        parts += [(name, True) for name in (*kinds, "chunkwise-form", *_FORMS.get(memory.form, ()))]
        parts += [
            ("input-gate", memory.tied),
            ("state-normalisation", memory.normalised),
            ("value-residual", memory.bonus),
            ("output-feedback", memory.feedback),
        ]
    parts += [
        ("token-shift", inputs.shift != "none"),
        ("short-convolution", bool(inputs.convolved) or inputs.shift == "canon"),
        ("shared-state", inputs.key_width == "shared"),
        ("state-normalisation", inputs.value_norm),
        ("feature-map", reads_keys(mixer) and features.map != "identity"),
        ("qk-normalisation", reads_keys(mixer) and features.norm != "none"),
        ("rotary-phase", features.rotary != "none"),
        ("parallel-paths", branches(mixer) > 1),
        *((_PATHS[path.kind], True) for path in mixer.paths),
        (_FUSIONS.get(fusion.kind, ""), fusion.kind in _FUSIONS),
        ("gate-floor", fusion.floor),
        ("temperature", fusion.temperature),
        ("content-router", fusion.evidence == "statistics"),
        ("output-gate", output.gate != "none"),
        ("low-rank-projection", output.gate_rank == "low"),
        ("output-normalisation", output.norm != "none"),
        ("head-mixing", output.mixing != "none"),
        ("value-residual", output.skip != "none"),
    ]
    return tuple(dict.fromkeys(name for name, present in parts if present))
