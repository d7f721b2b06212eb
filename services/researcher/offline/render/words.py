"""A description in plain words, for the docstrings of programs."""

from collections.abc import Iterator

from services.researcher.offline.description import Mixer
from services.researcher.offline.rules import branches, reads_keys

_RULES = {"delta": "delta rule", "product": "product of delta steps", "linear": "additive memory"}
_DECAYS = {
    "retention": "fixed forgetting per head",
    "mamba": "forget gate of the state-space kind per head",
    "sigmoid": "sigmoid forget gate per head",
    "channel": "forget gate per key channel",
    "floored": "forget gate per key channel above a learned floor",
}
_WRITES = {"sigmoid": "gated writes", "double": "writes of strength up to 2", "channel": "writes gated per channel"}


def describe(mixer: Mixer) -> str:
    """One line, in lower case, on what the mixer is made of."""
    return "; ".join(_phrases(mixer.settled())) + "."


def _phrases(mixer: Mixer) -> Iterator[str]:
    memory = mixer.memory
    if memory.rule != "none":
        gates = [_DECAYS.get(memory.decay), _WRITES.get(memory.write)]
        named = " and ".join(gate for gate in gates if gate)
        yield _RULES[memory.rule] + (f" with {named}" if named else "")
    if reads_keys(mixer):
        yield f"{mixer.features.map.replace('_', ' ')} keys" + (
            f" of {mixer.features.norm} norm" if mixer.features.norm != "none" else ""
        )
    if mixer.paths:
        kinds = ", ".join(path.kind.replace("_", " ") for path in mixer.paths)
        yield f"{kinds} beside it" if memory.rule != "none" else kinds
    if branches(mixer) > 1:
        yield f"joined by {mixer.fusion.kind}"
    if mixer.output.gate != "none":
        yield f"{mixer.output.gate} output gate"
