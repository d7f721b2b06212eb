"""Scales of experiments: all sizes, steps and limits under one name (mini, tiny, explore, verify, final)."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from services.domain.ladder import SCALES
from services.domain.zoo import baselines

__all__ = ["AUTO", "BF16", "CANDIDATE", "FP32", "SCALES", "Scale", "ScaleError", "load_scale", "overrides_of"]

CANDIDATE = "candidate"
"""In a pattern of layers, the candidate's mixer."""

BF16, FP32, AUTO = "bf16-autocast", "fp32", "auto"
"""The precisions of a scale; `auto` is replaced by one of the others before training."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "precision": (AUTO, BF16, FP32),
    "corpus": ("python-source", "documentation", "files", "hub"),
    "device": ("cpu", "cuda"),
    "evolves": ("mixer", "model"),
}
_FROM_ZERO = frozenset(
    {"warmup", "decay", "weight_decay", "final_rate", "beta1", "beta2", "evaluations", "task_limit", "loss_chunk"}
)
_SHARES = frozenset({"warmup", "decay", "final_rate", "beta1", "beta2"})
_LARGEST = 2**53  # beyond it messages and JSON lose digits


class ScaleError(ValueError):
    """A scale or one of its values is unknown or invalid. The message names it."""


@dataclass(frozen=True)
class Scale:
    """The conditions under which candidates are trained and measured.

    Lengths are in tokens and batches in sequences; `warmup` and `decay` are shares of the optimiser steps, and
    `final_rate` is the final learning rate as a share of the peak. `task_limit` is the number of examples per task, 0
    for all. `precision = "auto"` is replaced once per run, by a measurement. `task_path` is a folder of task files of
    lm-evaluation-harness. `pattern` names the mixer of each layer, repeated: "candidate" or a program of the zoo; an
    empty pattern means the candidate everywhere. With `evolves = "model"`, programs may also choose the mixers of their
    layers and the layout of their blocks. With `substitute`, a program's recurrences are replaced by fla's kernels
    where both agree. `loss_chunk` is the number of tokens whose logits are in memory at a time, 0 for all. `per_device`
    trainings share one GPU and its memory. `wall_seconds` limits the processor time of a training on a CPU, whose wall
    time may be four times as long, as the machine may be busy, and the wall time of one on a GPU.
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
    warmup: float
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
    final_rate: float = 0.1  # this and the next six are the same in all shipped scales
    decay: float = 0.2
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    grad_clip: float = 1.0
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
        """The number of layers with the candidate's mixer."""
        if not self.pattern:
            return self.blocks
        return sum(self.pattern[layer % len(self.pattern)] == CANDIDATE for layer in range(self.blocks))

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context

    @property
    def heldout_tokens(self) -> int:
        """Tokens of the held-out blocks with their targets."""
        return self.heldout_blocks * (self.context + 1)

    @property
    def of_bytes(self) -> bool:
        """Whether tokens are bytes, so that no tokenizer is needed."""
        return self.corpus != "hub"

    @property
    def steps(self) -> int:
        """Optimiser steps: the whole batches in `tokens`, at least one."""
        return max(1, self.tokens // self.tokens_per_step)


def overrides_of(texts: Sequence[str]) -> dict[str, str]:
    """The overrides in repeated options `--set NAME=VALUE`. Raises ScaleError."""
    if bad := [text for text in texts if text.find("=") < 1]:
        raise ScaleError(f"--set is {bad[0]!r}; write it as NAME=VALUE.")
    return dict(text.split("=", 1) for text in texts)


def load_scale(name: str, overrides: Mapping[str, str] = MappingProxyType({})) -> Scale:
    """Read a scale and apply overrides; `steps` is accepted in place of `tokens`. Raises ScaleError.

    Of overridden `tasks` those are averaged that the scale averages, or all where it averages none of them.
    """
    if name not in SCALES:
        raise ScaleError(f"There is no scale {name!r}{_suggestion(name, SCALES)}; choose one of {', '.join(SCALES)}.")
    text = Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8")
    raw: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in tomllib.loads(text).items()
    }
    scale = Scale(**raw)
    changes: dict[str, Any] = {
        field: _parse(scale, field, value) for field, value in overrides.items() if field != "steps"
    }
    scale = replace(scale, **changes)
    if "micro_batch" not in changes and scale.micro_batch > scale.batch:
        scale = replace(scale, micro_batch=scale.batch)
    if "tasks" in changes and "averaged" not in changes:
        scale = replace(scale, averaged=tuple(task for task in scale.averaged if task in scale.tasks) or scale.tasks)
    if "steps" in overrides:
        if "tokens" in overrides:
            raise ScaleError("The overrides steps and tokens are alternatives; give one of them.")
        scale = replace(scale, tokens=int(_number("steps", overrides["steps"], int)) * scale.tokens_per_step)
    _validate(scale)
    return scale


def _parse(scale: Scale, field: str, text: str) -> bool | int | float | str | tuple[str, ...]:
    names = [f.name for f in fields(Scale) if f.name != "name"]
    if field not in names:
        raise ScaleError(f"The scale has no field {field!r}{_suggestion(field, [*names, 'steps'])}.")
    default = getattr(scale, field)
    if isinstance(default, bool):
        if text.lower() not in {"true", "false"}:
            raise ScaleError(f"The scale's {field} must be true or false, not {text!r}.")
        return text.lower() == "true"
    if isinstance(default, int | float):
        return _number(field, text, type(default))
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _number(field: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ScaleError(f"The scale's {field} must be {expected}, not {text!r}.") from None


def _validate(scale: Scale) -> None:
    for field in fields(Scale):
        name, value = field.name, getattr(scale, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not (value >= 0 if name in _FROM_ZERO else value > 0) or value > _LARGEST:
            bound = "zero or more" if name in _FROM_ZERO else "more than zero"
            raise ScaleError(f"The scale's {name} must be {bound} and at most {_LARGEST}, not {value}.")
        if name in _SHARES and value > 1:
            raise ScaleError(f"The scale's {name} must be between 0 and 1, not {value}.")
    for name, choices in _CHOICES.items():
        if getattr(scale, name) not in choices:
            raise ScaleError(f"The scale's {name} must be one of {', '.join(choices)}, not {getattr(scale, name)!r}.")
    if scale.corpus in ("files", "hub") and not scale.dataset:
        raise ScaleError(f"The scale's corpus {scale.corpus} needs a dataset; give its name or path.")
    mixers = (CANDIDATE, *(baseline.name for baseline in baselines()))
    for name in scale.pattern:
        if name not in mixers:
            suggestion = _suggestion(name, mixers)
            raise ScaleError(f"The scale's pattern names {name!r}{suggestion}; choose from {', '.join(mixers)}.")
    if not scale.own_layers:
        raise ScaleError(f"The scale's pattern leaves no layer of {scale.blocks} to the candidate; name it in pattern.")
    if scale.width % scale.heads:
        raise ScaleError(f"The scale's width {scale.width} must be a multiple of its {scale.heads} heads.")
    if scale.batch % scale.micro_batch:
        raise ScaleError(f"The scale's batch {scale.batch} must be a multiple of micro_batch {scale.micro_batch}.")
    if scale.warmup + scale.decay > 1:
        raise ScaleError("The sum of the scale's warmup and decay must not exceed 1: they are shares of the steps.")
    missing = [task for task in scale.averaged if task not in scale.tasks]
    if missing:
        raise ScaleError(f"The scale averages {', '.join(missing)}, which is not among its tasks; change averaged too.")


def _suggestion(word: str, choices: list[str] | tuple[str, ...]) -> str:
    matches = get_close_matches(word, choices, n=3)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""
