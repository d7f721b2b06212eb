"""The settings of a run, declared once for the command line, for settings files and for the run's record.

Each field of `RunOptions` declares its default, bounds, help text and field of the message `RunSettings`. The flags of
`asi-arch run` and the names in a settings file are derived from it.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from services.archive.policies import POLICIES, climb_of_run, parse_policies
from services.archive.scoring import objectives_of
from services.chassis.errors import SettingsError, reason_of
from services.contracts import events_pb2 as pb
from services.domain.fitness import DEFAULT, VERSIONS
from services.domain.ladder import HUB, PROMOTIONS, SCALE_FILE, SCALES, corpus_overrides, parse_scale_file
from services.domain.pool import STRATEGIES
from services.domain.run_state import Budget, RunPolicy
from services.domain.zoo import baselines as zoo
from services.llm.port import validate_mind
from services.local.programs import SUFFIX, read_programs, require_distinct
from services.local.settings import did_you_mean, require_choice, split_names

SMALL_SCALES = ("mini", "tiny")  # on a CPU, a handful of candidates
TINY_BASELINES = ("delta_net", "gated_delta_net", "delta_net_value_skip", "gla", "retnet")
TINY_CANDIDATES = 6
# The paper's pool (50, 1–10, 4, 200, 50) is for thousands of candidates; a tiny run has a dozen.
TINY_POOL = pb.PoolSettings(size=12, parents=4, references=3, cold_start=5, batch=3)
PAPER_POOL = pb.PoolSettings(size=50, parents=10, references=4, cold_start=200, batch=50)
PARTS = ("cognition", "analysis", "judge")
HOUR = 3600
SEARCH, PARENTS = "informed", "power-law"  # the best in bench/paired_search.py and `asi-arch table compare`
STOPPING = "quantiles"
"""Used in every new run: `asi-arch table info` measures what it saves, and that it loses none of the best."""


def _setting(
    default: Any, text: str, *, flag: str = "", wire: str = "", unit: int = 1, fixed: bool = False, **bounds: Any
) -> Any:
    """One setting. `flag`: its public name if it differs from the field's; `wire`: its path in RunSettings, empty if
    `run_settings` derives the value; `unit`: the factor from the setting to the wire; `fixed`: a fork cannot change it.
    """
    extra: JsonDict = {"wire": wire, "unit": unit, "fixed": fixed}
    return Field(default, alias=flag or None, description=text, json_schema_extra=extra, **bounds)


class Measurement(BaseModel):
    """How candidates are trained and scored."""

    scale: str = _setting(
        "tiny", "mini, tiny, explore, verify, final or FILE.toml; default: by machine speed", wire="scale", fixed=True
    )
    overrides: dict[str, str] = _setting(
        {}, "override of the scale, such as tokens=20000", flag="set", wire="scale_overrides", fixed=True
    )
    corpus: str = _setting(
        "", "training text: a folder, a file or hub:NAME or hub:NAME@CONFIG; default: the scale's", fixed=True
    )
    candidate_seeds: int = _setting(
        1, "trainings per candidate", flag="seeds", wire="candidate_seeds", fixed=True, ge=1
    )
    baseline_seeds: int = _setting(1, "trainings per baseline", wire="baseline_seeds", fixed=True, ge=1)
    baselines: tuple[str, ...] = _setting(
        (), "comma-separated names of the zoo and FILE.py of your own; the first is the root", fixed=True
    )
    seed_programs: tuple[str, ...] = _setting(
        (), "program of your own (FILE.py or a folder) from which the search begins", flag="seed_program", fixed=True
    )
    fitness: str = _setting(
        DEFAULT, "formula of the fitness: standardised-gain-1, paper or code", wire="fitness", fixed=True
    )
    judge_times: int = _setting(1, "answers per verdict of a language-model judge", wire="judge_times", ge=1)


class Search(BaseModel):
    """How candidates are proposed."""

    mind: str = _setting(
        "offline", "offline, openai, openai+offline, recorded:RUN, recorded:RUN@SEQUENCE or recorded:FILE", wire="mind"
    )
    seats: int = _setting(2, "candidates in flight at once", wire="seats", ge=1)
    seed: int = _setting(1, "seed of all random draws of the run", wire="seed", ge=0)
    parent_policy: str = _setting(PARENTS, "power-law, paper, uniform, uct or islands", wire="parent_policy")
    best_of: int = _setting(
        1, "drafts per proposal, of which the least similar is taken", wire="ablations.best_of", ge=1
    )
    random_parent: bool = _setting(
        False, "draw parents uniformly, without --parent-policy", wire="ablations.random_parent"
    )
    without: tuple[str, ...] = _setting((), "switch off: cognition, analysis, judge")


class Limits(BaseModel):
    """The budget: the run ends when any part is used up."""

    candidates: int | None = _setting(
        None, "proposals; default at tiny: as many as fit into 8 minutes, at most 6", wire="budget.candidates", ge=0
    )
    hours: float | None = _setting(None, "wall-clock hours", wire="budget.seconds", unit=HOUR, ge=0)
    gpu_hours: float | None = _setting(None, "GPU-hours", wire="budget.gpu_seconds", unit=HOUR, ge=0)
    tokens: int | None = _setting(None, "language-model tokens", wire="budget.tokens", ge=0)
    money: float | None = _setting(None, "US dollars for language models", wire="budget.money", ge=0)


class Verification(BaseModel):
    """What happens to the best candidates, and the run's further rules."""

    promotion: str = _setting("none", "none, paper or halving", wire="promotion")
    policies: dict[str, str] = _setting({}, "further rule, such as leakage=probe", flag="policy")


GROUPS: Mapping[str, type[BaseModel]] = {
    "Measurement": Measurement, "Search": Search, "Budget": Limits, "Verification": Verification,
}  # fmt: skip
SETTINGS: Mapping[str, FieldInfo] = {name: info for kind in GROUPS.values() for name, info in kind.model_fields.items()}


class RunOptions(Measurement, Search, Limits, Verification):
    """All settings of a run. `model_fields_set` holds those that were set explicitly."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    changes_of_scale: str = Field("--set", description="the flags that `overrides` are from, for errors; no setting")

    @field_validator("overrides", "policies", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        """From a list of NAME=VALUE, or a table of a settings file."""
        if isinstance(value, Mapping):
            return {name: str(content) for name, content in value.items()}
        pairs = [str(text).partition("=") for text in (value if isinstance(value, list | tuple) else [value])]
        if bad := next((pair for pair in pairs if not pair[0] or not pair[1]), None):
            raise ValueError(f"{''.join(bad)!r} is not NAME=VALUE")
        return {name: content for name, _, content in pairs}

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and info.field_name != "random_parent":
            raise ValueError("it cannot be true or false")
        return value

    @field_validator("baselines", "seed_programs", "without", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        names = split_names(value) if isinstance(value, str) else value
        if value and not names:
            raise ValueError("it holds no name")
        return names

    @classmethod
    def read(cls, values: Mapping[str, object], source: str = "") -> Self:
        """Raises SettingsError naming the setting, its source and the accepted values."""
        flags = [flag_of(name, field) for name, field in SETTINGS.items()]
        if unknown := [name for name in values if name not in {*flags, *SETTINGS}]:
            choice = did_you_mean(unknown[0], flags) or f"; there are {', '.join(flags)}."
            raise SettingsError(f"{source and f'{source}: '}{unknown[0]!r} is not a setting of a run{choice}")
        try:
            return cls.model_validate(dict(values))._with_own_scale()
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0]) if problem["loc"] else ""
            prefix, shown = (f"{source}: ", name) if source else ("", f"--{name.replace('_', '-')}")
            a_list = 'give names, as in ["delta_net", "gla"] or "delta_net,gla"'
            reason = a_list if problem["type"] == "tuple_type" else problem["msg"].removeprefix("Value error, ")
            value = "" if isinstance(problem["input"], list) else f" is {problem['input']!r}"
            raise SettingsError(f"{prefix}{shown}{value}: {reason}.") from None

    def _with_own_scale(self) -> Self:
        """A scale file and a corpus as overrides of a built-in scale; `--set` wins over both. Raises SettingsError."""
        changes: dict[str, Any] = {}
        overrides = dict(self.overrides)
        if self.corpus:
            corpus = self.corpus if self.corpus.startswith(HUB) else str(Path(self.corpus).absolute())
            if corpus.startswith(HUB) and not corpus_overrides(corpus)["dataset"]:
                raise SettingsError(f"--corpus is {corpus!r}: write hub:NAME or hub:NAME@CONFIG.")
            if not (corpus.startswith(HUB) or Path(corpus).is_file() or any(Path(corpus).rglob("*"))):
                raise SettingsError(
                    f"--corpus: there is no file or folder {self.corpus} that holds anything. For one that only the "
                    "engineers have: --set corpus=files --set dataset=PATH."
                )
            overrides = {**corpus_overrides(corpus), **overrides}
        if self.scale.endswith(SCALE_FILE):
            try:
                base, own_scale = parse_scale_file(Path(self.scale).read_text(encoding="utf-8-sig"), self.scale)
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"--scale {self.scale}: {reason_of(error)}.") from None
            except ValueError as error:
                raise SettingsError(f"--scale {error}.") from None
            changes["changes_of_scale"] = f"--scale {self.scale}{' with --set' if self.overrides else ''}"
            changes["scale"], overrides = base, {**own_scale, **overrides}
        return self.model_copy(update=changes if overrides == self.overrides else {**changes, "overrides": overrides})


def flag_of(name: str, field: FieldInfo) -> str:
    """The public name of a setting."""
    return field.alias or name


def run_settings(options: RunOptions) -> pb.RunSettings:
    """The record of a run's settings. Raises SettingsError naming the flag and the fix."""
    require_choice("--scale", options.scale, SCALES)
    require_choice("--fitness", options.fitness, VERSIONS)
    require_choice("--parent-policy", options.parent_policy, tuple(STRATEGIES))
    require_choice("--promotion", options.promotion, PROMOTIONS)
    for part in options.without:
        require_choice("--without", part, PARTS)
    for policy in options.policies:
        require_choice("--policy", policy, POLICIES)
    try:
        default = {} if "prune" in options.policies else {"stopping": STOPPING}
        policies = parse_policies(default | options.policies)
        policies.search = policies.search or SEARCH
    except ValueError as error:
        raise SettingsError(f"--policy: {error}.") from None
    try:
        options = options.model_copy(update={"mind": validate_mind(options.mind)})
    except ValueError as error:
        raise SettingsError(f"--mind: {error}.") from None
    zoo_names = [baseline.name for baseline in zoo()]
    own_baselines = read_programs("--baselines", [name for name in options.baselines if name.endswith(SUFFIX)])
    programs = [*own_baselines, *read_programs("--seed-program", options.seed_programs)]
    require_distinct(programs)
    baselines = [Path(name).stem if name.endswith(SUFFIX) else name for name in options.baselines]
    for name in baselines:
        require_choice("--baselines", name, [*zoo_names, *(program.name for program in own_baselines)])
    small = options.scale in SMALL_SCALES
    settings = pb.RunSettings(
        baselines=baselines or (TINY_BASELINES if small else zoo_names),
        programs=programs,
        pool=TINY_POOL if small else PAPER_POOL,
        ablations=pb.Ablations(**{f"without_{part}": True for part in options.without}),
        policies=policies,
    )
    for name in SETTINGS:
        _write(settings, name, getattr(options, name))
    settings.budget.CopyFrom(budget(options))
    try:
        objectives_of(settings)
    except ValueError as error:
        raise SettingsError(f"--policy objectives: {error}.") from None
    _require_possible(settings)
    return settings


def _write(settings: pb.RunSettings, name: str, value: Any) -> None:
    """Write a setting to its field of the message; None stays absent."""
    extra = _extra(name)
    if not extra["wire"] or value is None:
        return
    parent, _, field = str(extra["wire"]).rpartition(".")
    message = getattr(settings, parent) if parent else settings
    if isinstance(value, dict):
        getattr(message, field).update(value)
        return
    try:
        value = value * extra["unit"] if extra["unit"] != 1 else value
        if isinstance(value, float) and math.isinf(value):
            raise ValueError("no limit is infinite; leave it out")
        setattr(message, field, value)
    except ValueError as error:  # of protobuf, too: out of range, or half of a surrogate pair
        flag, reason = flag_of(name, SETTINGS[name]).replace("_", "-"), str(error).lower()
        reason = "it is too large" if "out of range" in reason else reason
        raise SettingsError(f"--{flag} is {value!r}: {reason}.") from None


def _extra(name: str) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", SETTINGS[name].json_schema_extra)  # as `_setting` makes it


def budget(options: RunOptions) -> pb.Budget:
    """The budget; a few candidates at a small scale without any limit."""
    settings = pb.RunSettings()
    for name in Limits.model_fields:
        _write(settings, name, getattr(options, name))
    if options.scale in SMALL_SCALES and not settings.budget.ListFields():
        settings.budget.candidates = TINY_CANDIDATES
    return settings.budget


FORK, CONTINUED = "a fork", "a run that continues"
_DERIVED = {"baselines": "baselines", "seed_programs": "programs"}  # by `run_settings`


def changed_settings(source: pb.RunSettings, options: RunOptions, of: str = FORK) -> pb.RunSettings:
    """The settings of a run with the explicitly set options.

    Raises SettingsError for an option that may not differ: in a fork one that would make the inherited measurements
    incomparable, in one that is CONTINUED all but its budget.
    """
    changes, settings = run_settings(options), pb.RunSettings()
    settings.CopyFrom(source)
    for name in SETTINGS:
        if name not in options.model_fields_set or name == "corpus":  # which is part of `overrides`
            continue
        before = settings.SerializeToString(deterministic=True)
        _change(settings, name, options, changes)
        may_differ = name in Limits.model_fields or (of == FORK and not _extra(name)["fixed"])
        if not may_differ and settings.SerializeToString(deterministic=True) != before:
            flag = f"--{flag_of(name, SETTINGS[name]).replace('_', '-')}"
            if name == "overrides":
                flag = f"--corpus or {options.changes_of_scale}" if options.corpus else options.changes_of_scale
            raise SettingsError(f"{flag} cannot differ in {of}: leave it out, or start a new run.")
    return settings


def _change(settings: pb.RunSettings, name: str, options: RunOptions, changes: pb.RunSettings) -> None:
    """Change one setting to that of the options, whose settings as a message are `changes`."""
    if name in Limits.model_fields:
        settings.budget.CopyFrom(changes.budget)
    elif name == "without":
        for part in PARTS:
            setattr(settings.ablations, f"without_{part}", part in options.without)
    elif name == "policies":
        if "prune" in options.policies:  # it is read where stopping is absent
            settings.policies.ClearField("stopping")
        settings.policies.MergeFrom(parse_policies(options.policies))
    else:
        parent, _, field = (_DERIVED.get(name) or str(_extra(name)["wire"])).rpartition(".")
        source, target = (getattr(changes, parent), getattr(settings, parent)) if parent else (changes, settings)
        value = getattr(source, field)
        if isinstance(value, str | int):
            setattr(target, field, value)
        elif field == "scale_overrides":
            target.scale_overrides.update(value)
        else:
            del getattr(target, field)[:]
            getattr(target, field).extend(value)


def _require_possible(settings: pb.RunSettings) -> None:
    """Validate with the run's own policy, so that the store cannot refuse the run later."""
    try:
        for stage in climb_of_run(settings).stages:
            require_choice("--policy stages", stage.scale, SCALES)
        RunPolicy(
            seats=settings.seats,
            budget=Budget(**{field.name: value for field, value in settings.budget.ListFields()}),
            baselines=tuple(settings.baselines),
            candidate_seeds=settings.candidate_seeds,
            baseline_seeds=settings.baseline_seeds,
        )
    except ValueError as error:
        raise SettingsError(f"{error}.") from None
