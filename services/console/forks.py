"""The settings of a run that is forked from another: what the user gave anew, and the source's for all else."""

from collections.abc import Collection
from dataclasses import dataclass

import typer

from services.chassis.errors import SettingsError
from services.contracts import events_pb2 as pb

_NEW = {
    "mind": "mind", "seats": "seats", "seed": "seed", "parent_policy": "parent_policy", "promotion": "promotion",
    "judge_times": "judge_times", "policy": "policies", "candidates": "budget", "hours": "budget",
    "gpu_hours": "budget", "tokens": "budget", "money": "budget",
}  # fmt: skip
_ABLATIONS = {"random_parent": ("random_parent",), "best_of": ("best_of",),
              "without": ("without_cognition", "without_analysis", "without_judge")}  # fmt: skip
_KEPT = {"scale": "--scale", "seeds": "--seeds", "baseline_seeds": "--baseline-seeds", "baselines": "--baselines",
         "fitness": "--fitness", "override": "--set"}  # fmt: skip


@dataclass(frozen=True)
class Fork:
    """What `--fork` names, and which other flags came with it."""

    spec: str  # RUN, RUN@SEQUENCE or RUN@EVENT_ID
    given: frozenset[str]

    @property
    def run(self) -> str:
        """The run whose history it is."""
        return self.spec.partition("@")[0]


def fork_of(spec: str, context: typer.Context, resume: bool) -> Fork:
    """The fork that a command line asks for. Raises SettingsError for one that goes on with a run as well."""
    if resume:
        raise SettingsError("--fork begins a run and --resume goes on with one: give one of them.")
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return Fork(spec, frozenset(name for name, where in sources.items() if where and where.name == "COMMANDLINE"))


def fork_settings(source: pb.RunSettings, wanted: pb.RunSettings, given: Collection[str]) -> pb.RunSettings:
    """The source's settings with those parts of `wanted` whose flags were given.

    Raises SettingsError for a flag that would contradict the history: what was measured in one way stays comparable.
    """
    for flag, name in _KEPT.items():
        if flag in given:
            raise SettingsError(f"{name} cannot differ in a fork: its history was measured otherwise. Start a new run.")
    settings = pb.RunSettings()
    settings.CopyFrom(source)
    for field in {_NEW[flag] for flag in given if flag in _NEW}:
        settings.ClearField(field)  # type: ignore[arg-type]
        settings.MergeFrom(_only(wanted, field))
    for flag in _ABLATIONS.keys() & set(given):
        for name in _ABLATIONS[flag]:
            setattr(settings.ablations, name, getattr(wanted.ablations, name))
    return settings


def _only(settings: pb.RunSettings, field: str) -> pb.RunSettings:
    """A copy with just one field."""
    copy = pb.RunSettings()
    copy.CopyFrom(settings)
    for descriptor, _ in settings.ListFields():
        if descriptor.name != field:
            copy.ClearField(descriptor.name)  # type: ignore[arg-type]
    return copy
