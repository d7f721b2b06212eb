"""The ladder of stages that candidates climb: its state, and its settings, which are read from text.

Rung 0 is the search, each stage above it is a rung, and the last one gives the verdicts. All trainings of a rung in one
round have the same seeds, which nothing else of the run has used.

The policy `stages` lists the stages above the search with overrides, as in ``explore,verify:seeds=3`` or
``tiny:tokens=1200000:seeds=5``. Budgets relative to the baseline are shares: ``0.1`` is ±10 %, ``+0.1`` at most 10 %
more, ``none`` no limit.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from services.domain.discovery import DiscoveryPolicy
from services.domain.promotion import (
    Budget,
    Limit,
    PaperPromotion,
    PromotionPolicy,
    Result,
    Rung,
    SuccessiveHalving,
    decide,
    reason,
)

Losses = tuple[tuple[int, float], ...]  # by seed
MAX_SEEDS = 99
T = TypeVar("T")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Stage:
    """One rung above the search: a scale with overrides, and the number of fresh seeds."""

    scale: str
    seeds: int
    overrides: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MAX_SEEDS:
            raise ValueError(f"a stage takes 1 to {MAX_SEEDS} seeds, not {self.seeds}")


@dataclass(frozen=True, slots=True)
class Promote:
    """Train a candidate again with fresh seeds and held-out data."""

    candidate: str
    round: int
    rung: int
    stage: Stage
    seeds: tuple[int, ...]
    reason: str
    match: int | None = None  # parameters that its width has to match


@dataclass(frozen=True, slots=True)
class Ladder:
    """The state of all rungs. Those above the search, ``rungs[0]`` and ``roots[0]``, are reset every round."""

    rounds: int = 0
    open: bool = False  # a round is in progress
    rungs: tuple[Rung, ...] = ()
    roots: tuple[Result | None, ...] = ()
    climbing: frozenset[tuple[str, int]] = frozenset()  # candidates in training, and their rung
    accompanied: frozenset[int] = frozenset()  # rungs that the controls were promoted to in this round
    verified: tuple[tuple[str, Losses], ...] = ()  # at the last rung, in this round
    conditions: frozenset[str] = frozenset()  # held-out texts and precisions of these losses; one if comparable
    earlier: frozenset[str] = frozenset()  # promoted before a fork changed the rules
    level_used: float = 0.0  # share of the accepted rate of false discoveries that ended rounds have used


def measured(ladder: Ladder, rung: int, result: Result, root: bool) -> Ladder:
    """The ladder after one more result of a rung; that of the root is what others are compared with."""
    if root:
        return replace(ladder, roots=_with(ladder.roots, rung, result, None))
    state = _at(ladder.rungs, rung, Rung())
    state = replace(state, waiting=(*state.waiting, result))
    return replace(ladder, rungs=_with(ladder.rungs, rung, state, Rung()))


def rescored(ladder: Ladder, candidate: str, fitness: float) -> Ladder:
    """The ladder with another fitness of one result of the search."""

    def changed(results: Sequence[Result]) -> tuple[Result, ...]:
        return tuple(
            replace(result, fitness=fitness) if result.candidate == candidate else result for result in results
        )

    rungs = [replace(rung, waiting=changed(rung.waiting), kept=changed(rung.kept)) for rung in ladder.rungs[:1]]
    roots = [root and changed([root])[0] for root in ladder.roots[:1]]
    return replace(ladder, rungs=(*rungs, *ladder.rungs[1:]), roots=(*roots, *ladder.roots[1:]))


def arrived(ladder: Ladder, rung: int, candidate: str, result: Result | None, root: bool) -> Ladder:
    """The ladder after a training above the search ended; ``result`` is None where it failed."""
    ladder = replace(ladder, climbing=ladder.climbing - {(candidate, rung)})
    return ladder if result is None else measured(ladder, rung, result, root)


def verified(ladder: Ladder, candidate: str, losses: Losses, conditions: frozenset[str]) -> Ladder:
    """The ladder after a result of the last rung; ``losses`` is empty if the training failed."""
    results = (*ladder.verified, (candidate, losses))
    return replace(ladder, verified=results, conditions=ladder.conditions | conditions)


def climb(
    ladder: Ladder, promotion: PromotionPolicy, stages: Sequence[Stage], controls: Sequence[str], over: bool
) -> tuple[Ladder, tuple[Promote, ...]]:
    """Candidates to promote now; the controls join the first of a rung in a round. ``over``: the search has ended."""
    promoted: list[Promote] = []
    for rung, stage in enumerate(stages):
        ended = over and not any(at <= rung for _, at in ladder.climbing)
        baseline = _at(ladder.roots, rung, None)
        state, chosen = decide(promotion, _at(ladder.rungs, rung, Rung()), baseline, ended)
        ladder = replace(ladder, rungs=_with(ladder.rungs, rung, state, Rung()))
        if chosen and baseline is not None:
            reasons = {result.candidate: reason(result, baseline) for result in chosen}
            matches = {result.candidate: promotion.budget.matched(result, baseline) for result in chosen}
            ladder, promotions = _promoted(ladder, rung + 1, stage, reasons, controls)
            promoted += [replace(promote, match=matches.get(promote.candidate)) for promote in promotions]
    return ladder, tuple(promoted)


def under_way(ladder: Ladder, stages: Sequence[Stage]) -> tuple[Promote, ...]:
    """Request all trainings in progress above the search again."""
    return tuple(
        Promote(candidate, ladder.rounds, rung, stages[rung - 1], _seeds(ladder, rung, stages[rung - 1]), "begun again")
        for candidate, rung in sorted(ladder.climbing)
    )


def limited(ladder: Ladder, stages: Sequence[Stage]) -> Ladder:
    """The ladder with these stages; promotions to removed stages are dropped."""
    return replace(ladder, climbing=frozenset((name, rung) for name, rung in ladder.climbing if rung <= len(stages)))


def reopened(ladder: Ladder) -> Ladder:
    """The ladder of a fork with other promotion rules, which apply to the stored results of the search.

    A round in progress is abandoned; its candidates and those of ended rounds may be promoted again, with fresh seeds:
    the members of a round are compared under the same conditions, and each earlier test counts as a trial.
    """
    if not ladder.rungs:
        return ladder
    search = ladder.rungs[0]
    waiting = (*search.kept, *search.outside, *search.waiting)
    rungs = (Rung(waiting=waiting, count=search.count - len(search.kept)),)
    earlier = ladder.earlier | search.promoted
    kept = Ladder(ladder.rounds, False, rungs, ladder.roots[:1], accompanied=ladder.accompanied, earlier=earlier)
    return replace(kept, level_used=ladder.level_used)


def _promoted(
    ladder: Ladder, rung: int, stage: Stage, reasons: Mapping[str, str], controls: Sequence[str]
) -> tuple[Ladder, list[Promote]]:
    """Promote the chosen candidates, preceded by the controls unless those were promoted in this round."""
    if not ladder.open:
        ladder = replace(
            ladder, rounds=ladder.rounds + 1, open=True, verified=(), conditions=frozenset(), accompanied=frozenset(),
            rungs=ladder.rungs[:1], roots=ladder.roots[:1],
        )  # fmt: skip
    if rung not in ladder.accompanied:
        reasons = dict.fromkeys(controls, "control: what a discovery has to beat") | dict(reasons)
    climbing = ladder.climbing | {(candidate, rung) for candidate in reasons}
    ladder = replace(ladder, climbing=climbing, accompanied=ladder.accompanied | {rung})
    seeds = _seeds(ladder, rung, stage)
    return ladder, [Promote(name, ladder.rounds, rung, stage, seeds, why) for name, why in reasons.items()]


def _seeds(ladder: Ladder, rung: int, stage: Stage) -> tuple[int, ...]:
    first = 1000 * ladder.rounds + 100 * (rung - 1) + 1
    return tuple(range(first, first + stage.seeds))


def _at(values: Sequence[T], index: int, empty: T) -> T:
    return values[index] if index < len(values) else empty


def _with(values: Sequence[T], index: int, value: T, empty: T) -> tuple[T, ...]:
    filled = [*values, *[empty] * (index + 1 - len(values))]
    filled[index] = value
    return tuple(filled)


PROMOTIONS = ("none", "paper", "halving")
MAX_STAGES = 9
Policies = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Climb:
    """How candidates are promoted, if at all. ``ablations`` limits the analyst's requests."""

    promotion: PromotionPolicy | None
    stages: tuple[Stage, ...]
    discovery: DiscoveryPolicy
    ablations: int = 0


def climb_of(promotion: str, policies: Policies, scale: str, overrides: Mapping[str, str]) -> Climb:
    """The promotion of a run's settings. Raises ``ValueError`` naming an invalid policy."""
    if promotion and promotion not in PROMOTIONS:
        raise ValueError(f"promotion is {promotion!r}; choose one of {', '.join(PROMOTIONS)}")
    ablations = _number(policies, "ablations", 0)
    if promotion in ("", "none"):
        return Climb(None, (), DiscoveryPolicy(), ablations)
    default = DiscoveryPolicy()
    stages = _stages(policies, scale, overrides, _number(policies, "verify_seeds", default.seeds))
    discovery = DiscoveryPolicy(
        level=_number(policies, "level", default.level),
        seeds=stages[-1].seeds,
        worthwhile=_number(policies, "worthwhile", default.worthwhile),
    )
    return Climb(_promotion(promotion, policies), stages, discovery, ablations)


def _promotion(name: str, policies: Policies) -> PromotionPolicy:
    match = policies.get("match", "none")
    if match not in ("none", "width"):
        raise ValueError(f"policy match must be width or none, not {match!r}")
    budget = Budget(_limit(policies, "parameters"), _limit(policies, "flops"), match == "width")
    if name == "paper":
        usual = PaperPromotion()
        return PaperPromotion(_number(policies, "block", usual.block), _number(policies, "verify", usual.top), budget)
    return SuccessiveHalving(_number(policies, "eta", SuccessiveHalving().eta), budget)


def _stages(policies: Policies, scale: str, overrides: Mapping[str, str], seeds: int) -> tuple[Stage, ...]:
    text = str(policies.get("stages", scale))
    stages = tuple(_stage(part.strip(), scale, overrides, seeds) for part in text.split(",") if part.strip())
    if not 1 <= len(stages) <= MAX_STAGES:
        raise ValueError(f"policy stages must name 1 to {MAX_STAGES} stages, commas between, not {text!r}")
    return stages


def _stage(text: str, scale: str, overrides: Mapping[str, str], seeds: int) -> Stage:
    """A stage at the run's own scale inherits the run's overrides."""
    name, *parts = text.split(":")
    split = [part.partition("=") for part in parts]
    pairs = {field: value for field, _, value in split}
    if bad := next((field for field, value in pairs.items() if not value), None):
        raise ValueError(f"policy stages: write {bad!r} of stage {name} as NAME=VALUE")
    own = dict(overrides) if name == scale else {}
    if {"steps", "tokens"} & pairs.keys():
        own = {field: value for field, value in own.items() if field not in ("steps", "tokens")}
    count = _number(pairs, "seeds", seeds)
    pairs.pop("seeds", None)
    return Stage(name, count, tuple(sorted((own | pairs).items())))


def _limit(policies: Policies, name: str) -> Limit | None:
    text = str(policies.get(name, "0.1")).strip()
    return None if text == "none" else Limit(_number({name: text}, name, 0.0), upwards=text.startswith("+"))


def _number(policies: Policies, name: str, default: Number) -> Number:
    """A policy as a number of the default's type."""
    value: Any = policies.get(name, default)
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        expected = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"policy {name} must be {expected}, not {value!r}") from None


SCALES = ("mini", "tiny", "explore", "verify", "final")
SCALE_FILE = ".toml"
HUB = "hub:"
BASE = "base"


def parse_scale_file(content: str, name: str) -> tuple[str, dict[str, str]]:
    """The scale that a file names as its `base`, and what the file changes of it. Raises ValueError naming the file."""
    try:
        values = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is not TOML: {error}") from None
    base = values.pop(BASE, None)
    if base not in SCALES:
        raise ValueError(f'{name} has the base {base!r}; begin it with base = "NAME", one of {", ".join(SCALES)}')
    values.pop("name", None)
    overrides: dict[str, str] = {}
    for field, value in values.items():
        match value:
            case bool():
                overrides[field] = str(value).lower()
            case list():
                overrides[field] = ",".join(map(str, value))
            case str() | int() | float():
                overrides[field] = str(value)
            case _:
                raise ValueError(f"{name}: {field} must be a text, a number, true or false, or a list of texts")
    return base, overrides


def corpus_overrides(corpus: str) -> Mapping[str, str]:
    """The overrides for a corpus: hub:NAME or hub:NAME@CONFIG, else the path of a folder or file."""
    if not corpus.startswith(HUB):
        return {"corpus": "files", "dataset": corpus, "dataset_config": ""}
    dataset, _, config = corpus.removeprefix(HUB).partition("@")
    return {"corpus": "hub", "dataset": dataset, "dataset_config": config}
