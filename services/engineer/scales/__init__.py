"""The five scales of an experiment, as data: `load_scale("tiny")`.

One name (mini, tiny, explore, verify, final) derives every size, step and limit; single values can be overridden.
"""

import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from services.domain.ladder_settings import SCALES
from services.domain.zoo import baselines

__all__ = ["CANDIDATE", "SCALES", "Scale", "ScaleError", "load_scale"]


Precision = Literal["auto", "bf16-autocast", "fp32"]
CorpusName = Literal["python-source", "documentation", "files", "hub"]
Evolves = Literal["mixer", "model"]
CANDIDATE = "candidate"
"""In a pattern of layers: the mixer of the program."""

_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "precision": get_args(Precision),
        "corpus": get_args(CorpusName),
        "device": ("cpu", "cuda"),
        "evolves": get_args(Evolves),
    }
)
_FROM_ZERO = frozenset(
    {"warmup", "decay", "weight_decay", "final_rate", "beta1", "beta2", "evaluations", "task_limit", "loss_chunk"}
)
_SHARES = frozenset({"warmup", "decay", "final_rate", "beta1", "beta2"})


class ScaleError(ValueError):
    """A scale or one of its values is unknown or impossible. The message is one sentence naming it."""


@dataclass(frozen=True)
class Scale:
    """Everything that decides how a candidate is trained and measured, and nothing about the candidate itself.

    Lengths and batches are in tokens and sequences, `warmup` and `decay` are shares of all optimiser steps,
    `final_rate` is the share of the learning rate that is left at the end, `task_limit` is
    examples per task with 0 for all of them. `precision = "auto"` is decided once per run by a measurement.
    `task_path` is a folder of task files of lm-evaluation-harness. `pattern` names the mixer of each layer, repeated:
    "candidate" or a program of the zoo; empty: the candidate everywhere. With `evolves = "model"` programs may also
    name the mixers of their layers and the layout of their blocks. With `substitute` a program's own recurrences are
    trained by fla's kernels where both are seen to compute the same. The logits of `loss_chunk` tokens are in memory at
    a time, those of all with 0. `per_device` trainings share one GPU, each with its share of the memory.
    """

    name: str
    seeds: int
    baseline_seeds: int
    width: int
    blocks: int
    heads: int
    feed_forward: int
    context: int
    tied: bool
    batch: int
    micro_batch: int
    tokens: int
    learning_rate: float
    final_rate: float
    warmup: float
    decay: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    grad_clip: float
    precision: str
    compile: bool
    device: str
    corpus: str
    heldout_blocks: int
    check_truncations: int
    tasks: tuple[str, ...]
    averaged: tuple[str, ...]
    task_limit: int
    log_every: int
    evaluations: int
    threads: int
    wall_seconds: float
    memory_bytes: int
    dataset: str = ""
    dataset_config: str = ""
    text_field: str = ""
    tokenizer: str = ""
    task_path: str = ""
    pattern: tuple[str, ...] = ()
    evolves: str = "mixer"
    substitute: bool = False
    loss_chunk: int = 0
    per_device: int = 1

    @property
    def own_layers(self) -> int:
        """Layers whose mixer is the candidate's."""
        if not self.pattern:
            return self.blocks
        return sum(self.pattern[layer % len(self.pattern)] == CANDIDATE for layer in range(self.blocks))

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step sees."""
        return self.batch * self.context

    @property
    def of_bytes(self) -> bool:
        """Whether its tokens are bytes: its text is on this machine, and needs no tokenizer."""
        return self.corpus != "hub"

    @property
    def steps(self) -> int:
        """Optimiser steps: whole batches that fit into `tokens`, at least one."""
        return max(1, self.tokens // self.tokens_per_step)


def load_scale(name: str, overrides: Mapping[str, str] = MappingProxyType({})) -> Scale:
    """Read a scale and apply overrides given as text; `steps` is accepted in place of `tokens`.

    Raises ScaleError with one sentence for an unknown scale, an unknown field or an impossible value.
    """
    if name not in SCALES:
        raise ScaleError(f"There is no scale {name!r}{_near(name, SCALES)}; choose one of {', '.join(SCALES)}.")
    text = Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8")
    raw: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in tomllib.loads(text).items()
    }
    scale = Scale(**raw)
    changes: dict[str, Any] = {
        field: _parsed(scale, field, value) for field, value in overrides.items() if field != "steps"
    }
    scale = _consistent(replace(scale, **changes), asked=changes)
    if "steps" in overrides:
        scale = _with_steps(scale, overrides)
    _validate(scale)
    return scale


def _with_steps(scale: Scale, overrides: Mapping[str, str]) -> Scale:
    if "tokens" in overrides:
        raise ScaleError("The overrides steps and tokens say the same thing twice; give one of them.")
    return replace(scale, tokens=int(_number("steps", overrides["steps"], int)) * scale.tokens_per_step)


def _consistent(scale: Scale, asked: Container[str]) -> Scale:
    """A smaller batch takes its micro-batch along, and fewer tasks the averaged ones, unless those were asked for."""
    if "micro_batch" not in asked and scale.micro_batch > scale.batch:
        scale = replace(scale, micro_batch=scale.batch)
    if "tasks" in asked and "averaged" not in asked:
        scale = replace(scale, averaged=tuple(task for task in scale.averaged if task in scale.tasks))
    return scale


def _parsed(scale: Scale, field: str, text: str) -> bool | int | float | str | tuple[str, ...]:
    known = [f.name for f in fields(Scale) if f.name != "name"]
    if field not in known:
        raise ScaleError(f"The scale has no field {field!r}{_near(field, [*known, 'steps'])}.")
    current = getattr(scale, field)
    if isinstance(current, bool):
        return _boolean(field, text)
    if isinstance(current, int | float):
        return _number(field, text, type(current))
    if isinstance(current, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _boolean(field: str, text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ScaleError(f"The scale's {field} is true or false, not {text!r}.")
    return text.lower() == "true"


def _number(field: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        article = "a whole number" if kind is int else "a number"
        raise ScaleError(f"The scale's {field} must be {article}, not {text!r}.") from None


def _validate(scale: Scale) -> None:
    for field in fields(Scale):
        value = getattr(scale, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            _validate_number(field.name, value)
    for name, choices in _CHOICES.items():
        if getattr(scale, name) not in choices:
            raise ScaleError(f"The scale's {name} is one of {', '.join(choices)}, not {getattr(scale, name)!r}.")
    if scale.corpus in ("files", "hub") and not scale.dataset:
        raise ScaleError(f"The scale's corpus {scale.corpus} needs a dataset: the name or path of one.")
    known = (CANDIDATE, *(baseline.name for baseline in baselines()))
    for name in scale.pattern:
        if name not in known:
            raise ScaleError(f"The scale's pattern names {name!r}{_near(name, known)}; choose of {', '.join(known)}.")
    if not scale.own_layers:
        raise ScaleError(f"The scale's pattern leaves no layer of {scale.blocks} to the candidate; name it in pattern.")
    if scale.width % scale.heads:
        raise ScaleError(f"The scale's width {scale.width} cannot be split into {scale.heads} heads; change either.")
    if scale.batch % scale.micro_batch:
        raise ScaleError(f"The scale's batch {scale.batch} must be a multiple of micro_batch {scale.micro_batch}.")
    if scale.warmup + scale.decay > 1:
        raise ScaleError("The scale's warmup and decay are shares of the steps and must not exceed 1 together.")
    missing = [task for task in scale.averaged if task not in scale.tasks]
    if missing:
        raise ScaleError(f"The scale averages {', '.join(missing)}, which is not among its tasks; change averaged too.")


def _validate_number(name: str, value: float) -> None:
    if not (value >= 0 if name in _FROM_ZERO else value > 0) or value == float("inf"):
        bound = "zero or more" if name in _FROM_ZERO else "more than zero"
        raise ScaleError(f"The scale's {name} must be {bound} and finite, not {value}.")
    if name in _SHARES and value > 1:
        raise ScaleError(f"The scale's {name} is a share between 0 and 1, not {value}.")


def _near(word: str, known: list[str] | tuple[str, ...]) -> str:
    near = get_close_matches(word, known, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
