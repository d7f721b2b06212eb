"""Descriptions rendered as programs that a person could have written: their fragments are assembled here."""

import re
from collections.abc import Iterable, Iterator
from textwrap import wrap

from services.mixers.description import Mixer, branches, reads_keys
from services.mixers.render import inputs, memory, paths
from services.mixers.render.fragment import HELPERS, Fragment, block, unique

__all__ = ["render"]

_STAGES = (inputs.fragments, inputs.feature_fragments, memory.fragments, paths.fragments, paths.output_fragments)
_LAST_ARGUMENTS = ("layer_idx: int | None = None",)


def render(mixer: Mixer, name: str, motivation: str = "") -> str:
    """The program of a description: one self-contained Python module that defines `DeltaNet`.

    Its docstring begins with the architecture's name, and contains the motivation, one or more sentences.
    """
    mixer = mixer.canonical()
    stages = [list(stage(mixer)) for stage in _STAGES]
    parts = [part for stage in stages for part in stage]
    construct = _paragraphs(block((part.construct for part in stage), 2) for stage in stages)
    forward = _paragraphs(block((part.forward for part in stage), 2) for stage in stages)
    functions = "".join(f"\n{HELPERS[helper]}\n" for helper in unique(h for part in parts for h in part.helpers))
    docstring = f'"""{name}: a token mixer for language models.'
    docstring += "\n".join(["", "", *wrap(motivation, 110), '"""', ""]) if motivation else '"""\n'
    text = "\n".join(
        [
            docstring,
            _imports(parts, construct + forward + functions),
            functions,
            _head(mixer, parts, construct),
            construct,
            _FORWARD,
            _PADDING_KNOWN if "present" in forward else _PADDING,
            forward,
            "        return output, None, past_key_values",
            "",
        ]
    )
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(line.rstrip() for line in text.split("\n")))


def _paragraphs(blocks: Iterable[str]) -> str:
    return "\n\n".join(text for text in blocks if text)


def _imports(parts: list[Fragment], code: str) -> str:
    imports = unique(line for part in parts for line in part.imports)
    standard = sorted(line for line in imports if line.startswith("import "))
    names: dict[str, list[str]] = {}
    for line in sorted(line for line in imports if line.startswith("from ")):
        module, imported = line.removeprefix("from ").split(" import ")
        names.setdefault(module, []).append(imported)
    library = [f"from {module} import {', '.join(sorted(imported))}" for module, imported in names.items()]
    torch = ["import torch", "import torch.nn as nn"] + (["import torch.nn.functional as F"] if "F." in code else [])
    groups = [["from __future__ import annotations"], standard, [*torch, "from einops import rearrange", *library]]
    return "\n\n".join("\n".join(group) for group in groups if group)


def _head(mixer: Mixer, parts: list[Fragment], construct: str) -> str:
    extra = unique(argument for part in parts for argument in part.arguments)
    arguments = ["hidden_size: int = 1024", "d_model: int | None = None", "num_heads: int = 4", *extra]
    if "norm_eps" in construct:
        arguments.append("norm_eps: float = 1e-5")
    listed = "".join(f"        {argument},\n" for argument in (*arguments, *_LAST_ARGUMENTS))
    lines = wrap(f"Token mixer: {describe(mixer)}", 106)
    summary = lines[0] if len(lines) == 1 else "\n    ".join(lines) + "\n    "
    return _HEAD.format(summary=summary, arguments=listed)


_HEAD = '''
class DeltaNet(nn.Module):
    """{summary}"""

    def __init__(
        self,
{arguments}        **kwargs,
    ) -> None:
        super().__init__()
        hidden_size = d_model or hidden_size
        self.hidden_size, self.num_heads, self.layer_idx = hidden_size, num_heads, layer_idx'''

_FORWARD = '''
    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: object | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **kwargs,
    ) -> tuple[torch.Tensor, None, object | None]:
        """Mix [batch, length, hidden]; attention_mask is [batch, length], 0 where a token is padding."""
        x = hidden_states'''

_PADDING = """\
        if attention_mask is not None:  # padding is neither written nor read
            x = x * attention_mask[:, -x.shape[1] :, None].to(x.dtype)"""

_PADDING_KNOWN = """\
        present = x.new_ones(x.shape[:2]) if attention_mask is None else attention_mask[:, -x.shape[1] :].to(x.dtype)
        x = x * present[..., None]  # padding is neither written nor read"""


_RULES = {"delta": "delta rule", "product": "product of delta steps", "linear": "additive memory"}
_DECAYS = {
    "retention": "fixed forgetting per head",
    "momentum": "fixed forgetting per head of what a running sum writes",
    "mamba": "forget gate of the state-space kind per head",
    "sigmoid": "sigmoid forget gate per head",
    "channel": "forget gate per key channel",
    "floored": "forget gate per key channel above a learned floor",
    "sparse": "forget gate of the few key channels that a token chooses",
}
_WRITES = {
    "sigmoid": "gated writes",
    "double": "writes of strength up to 2",
    "channel": "writes gated per channel",
    "split": "erasing and writing gated apart",
    "preconditioned": "gated writes, scaled by the energy of their features,",
    "implicit": "the step of an implicit update",
}
_FORMS = {
    "trapezoid": "writes by the trapezoid's rule",
    "levels": "spans that double in length, each read by a weight of its own",
    "mesa": "queries that solve the regression of values on keys, by conjugate gradients",
    "ridge": "queries that solve a fading ridge regression of values on keys, by Chebyshev's iteration",
    "ages": "slots by age, which a clock moves on and a softmax reads",
    "householder": "a state that each token reflects along a direction of its own",
}


def describe(mixer: Mixer) -> str:
    """A one-line summary of the mixer's parts, in lower case."""
    return "; ".join(_phrases(mixer.canonical())) + "."


def _phrases(mixer: Mixer) -> Iterator[str]:
    memory = mixer.memory
    if memory.rule != "none":
        gates = [_DECAYS.get(memory.decay), _WRITES.get(memory.write)]
        named = " and ".join(gate for gate in gates if gate)
        yield _RULES[memory.rule] + (f" with {named}" if named else "")
    if memory.form != "plain":
        yield _FORMS[memory.form]
    if memory.feedback:
        yield "queries less a share of their keys"
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
