"""Parsing and validation of a run's policies, for the command line, settings files and the wire."""

import re
from collections.abc import Callable, Mapping

from services.contracts import events_pb2
from services.domain import fitness
from services.domain.ladder import Climb, climb_of
from services.domain.objectives import parse_objectives

SWITCH = {"on": True, "off": False}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "leakage": fitness.POLICIES,
    "match": ("none", "width"),
    "stopping": ("quantiles", "extrapolation", "none"),
    "search": ("informed", "surrogate", "bandit", "random"),
}
"""The values of policies with fixed choices."""
OF_PROMOTION = frozenset(
    ("block", "eta", "flops", "level", "match", "parameters", "stages", "verify", "verify_seeds", "worthwhile")
)
"""Policies without an effect unless candidates are promoted."""
OF_PAPER, OF_HALVING = frozenset(("block", "verify")), frozenset(("eta",))
"""Policies of one promotion only."""

MAX_EXPERIMENTS = 3

_FIELDS = events_pb2.Policies.DESCRIPTOR.fields_by_name
POLICIES = tuple(sorted(_FIELDS))
_LIMIT = re.compile(r"none|\+?\d+(\.\d*)?|\+?\.\d+")


def parse_policies(texts: Mapping[str, str]) -> events_pb2.Policies:
    """The message of these names and values. Raises ValueError naming the policy and its choices."""
    policies = events_pb2.Policies()
    for name, text in texts.items():
        if name not in _FIELDS:
            raise ValueError(f"policy {name} is unknown; choose one of {', '.join(POLICIES)}")
        if not text.strip():
            raise ValueError(f"policy {name} is empty: give it a value, or leave it out")
        setattr(policies, name, _value(name, text))
    for name in ("parameters", "flops"):
        if policies.HasField(name) and not _LIMIT.fullmatch(getattr(policies, name).strip()):  # type: ignore[arg-type]
            accepted = "a share as 0.1, +0.1 for an upper limit only, or none"
            raise ValueError(f"policy {name} must be {accepted}, not {getattr(policies, name)!r}")
    if policies.HasField("level") and not 0 < policies.level < 1:
        raise ValueError(f"policy level must be between 0 and 1, not {policies.level:g}")
    if policies.experiments > MAX_EXPERIMENTS:
        raise ValueError(f"policy experiments must be at most {MAX_EXPERIMENTS}, not {policies.experiments}")
    validate_policies(policies)
    return policies


def validate_policies(policies: events_pb2.Policies) -> None:
    """Raises ValueError naming the policy and its choices or range."""
    for name, choices in CHOICES.items():
        if policies.HasField(name) and getattr(policies, name) not in choices:  # type: ignore[arg-type]
            raise ValueError(f"policy {name} is {getattr(policies, name)!r}; choose one of {', '.join(choices)}")
    parse_objectives(policies.objectives)
    if policies.HasField("prune_from") and not 0 < policies.prune_from < 1:
        raise ValueError(f"policy prune_from must be a share between 0 and 1, not {policies.prune_from:g}")


def stopping_rule(policies: events_pb2.Policies) -> str:
    """The rule of early stopping; `prune` is the older name of extrapolation."""
    return policies.stopping if policies.HasField("stopping") else "extrapolation" if policies.prune else "none"


def climb_of_run(settings: events_pb2.RunSettings) -> Climb:
    """How a run promotes its candidates. Raises ValueError naming an invalid policy."""
    policies = {field.name: value for field, value in settings.policies.ListFields()}
    return climb_of(settings.promotion, policies, settings.scale, dict(settings.scale_overrides))


def stages_of(settings: events_pb2.RunSettings) -> str:
    """The stages that a run needs engineers for, comma-separated: its own, and those of its promotion."""
    return ",".join(dict.fromkeys((settings.scale, *(stage.scale for stage in climb_of_run(settings).stages))))


def _value(name: str, text: str) -> str | bool | int | float:
    field = _FIELDS[name]
    if field.type == field.TYPE_STRING:
        return text
    if field.type == field.TYPE_BOOL:
        if text not in SWITCH:
            raise ValueError(f"policy {name} is {text!r}; choose {' or '.join(SWITCH)}")
        return SWITCH[text]
    kind: Callable[[str], int | float] = int if field.type == field.TYPE_UINT32 else float
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**32:
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f"policy {name} must be {expected} from 0, not {text!r}")
    return value


def parent_policy(settings: events_pb2.RunSettings) -> str:
    """How a run draws parents, by the name of a strategy in `services.domain.pool`."""
    return "uniform" if settings.ablations.random_parent else settings.parent_policy or "paper"
