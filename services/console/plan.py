"""From flags to the settings of a run, and the sentence for a flag that cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.bus.subjects import run_name
from services.chassis.errors import SettingsError
from services.console.near import near
from services.contracts import events_pb2 as pb
from services.domain.fitness import VERSIONS
from services.domain.ladder_settings import PROMOTIONS, climb_of
from services.domain.pool import STRATEGIES
from services.domain.run_state import Budget, RunPolicy
from services.domain.zoo import baselines as zoo
from services.llm.port import validate_mind

SCALES = ("mini", "tiny", "explore", "verify", "final")
SMALL_SCALES = ("mini", "tiny")  # on a CPU, a handful of candidates
TINY_BASELINES = ("delta_net", "gated_delta_net", "delta_net_value_skip", "gla", "retnet")
TINY_CANDIDATES = 6
# The paper's pool (50, 1–10, 4, 200, 50) is for thousands of candidates; a tiny run has a dozen.
TINY_POOL = pb.PoolSettings(size=12, parents=4, references=3, cold_start=5, batch=3)
PAPER_POOL = pb.PoolSettings(size=50, parents=10, references=4, cold_start=200, batch=50)
PARTS = ("cognition", "analysis", "judge")
POLICIES = ("ablations", "block", "eta", "flops", "leakage", "level", "match", "parameters", "prune", "prune_from",
            "search", "stages", "verify", "verify_seeds", "worthwhile")  # fmt: skip


@dataclass(frozen=True)
class Flags:
    """What the user asked for; None means the scale's default."""

    scale: str = "tiny"
    mind: str = "offline"
    candidates: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None
    tokens: int | None = None
    money: float | None = None
    seats: int = 2
    seed: int = 1
    candidate_seeds: int = 1
    baseline_seeds: int = 1
    baselines: Sequence[str] = ()
    fitness: str = "paper"
    parent_policy: str = "paper"
    promotion: str = "none"
    judge_times: int = 1
    without: Sequence[str] = ()
    random_parent: bool = False
    best_of: int = 1
    overrides: Sequence[str] = ()
    policies: Sequence[str] = ()


def run_settings(flags: Flags) -> pb.RunSettings:
    """The settings of a run. Raises SettingsError naming the flag and the fix."""
    one_of("--scale", flags.scale, SCALES)
    one_of("--fitness", flags.fitness, tuple(VERSIONS))
    one_of("--parent-policy", flags.parent_policy, tuple(STRATEGIES))
    one_of("--promotion", flags.promotion, PROMOTIONS)
    for part in flags.without:
        one_of("--without", part, PARTS)
    try:
        mind = validate_mind(flags.mind)
    except ValueError as error:
        raise SettingsError(f"--mind: {error}.") from None
    settings = pb.RunSettings(
        scale=flags.scale,
        scale_overrides=_pairs("--set", flags.overrides),
        mind=mind,
        seats=flags.seats,
        budget=budget(flags),
        seed=flags.seed,
        candidate_seeds=flags.candidate_seeds,
        baseline_seeds=flags.baseline_seeds,
        baselines=_baselines(flags),
        fitness=flags.fitness,
        pool=TINY_POOL if flags.scale in SMALL_SCALES else PAPER_POOL,
        parent_policy=flags.parent_policy,
        ablations=pb.Ablations(
            **{f"without_{part}": True for part in flags.without},
            random_parent=flags.random_parent,
            best_of=flags.best_of,
        ),
        promotion=flags.promotion,
        judge_times=flags.judge_times,
    )
    policies = _pairs("--policy", flags.policies)
    for policy in policies:
        one_of("--policy", policy, POLICIES)
    settings.policies.update(policies)
    _must_be_possible(settings)
    return settings


def stages_of(settings: pb.RunSettings) -> str:
    """The stages that a run needs engineers for, commas between: its own, and those that candidates go up to."""
    climb = climb_of(settings.promotion, dict(settings.policies), settings.scale, dict(settings.scale_overrides))
    return ",".join(dict.fromkeys((settings.scale, *(stage.scale for stage in climb.stages))))


def budget(flags: Flags) -> pb.Budget:
    """The budget; at a small scale a handful of candidates if nothing else limits the run."""
    asked = (flags.candidates, flags.hours, flags.gpu_hours, flags.tokens, flags.money)
    candidates = (
        TINY_CANDIDATES if all(one is None for one in asked) and flags.scale in SMALL_SCALES else flags.candidates
    )
    return pb.Budget(
        candidates=candidates,
        seconds=None if flags.hours is None else flags.hours * 3600,
        gpu_seconds=None if flags.gpu_hours is None else flags.gpu_hours * 3600,
        tokens=flags.tokens,
        money=flags.money,
    )


def checked_run_name(name: str) -> str:
    """The name, if it can name a run. Raises SettingsError."""
    try:
        return run_name(name)
    except ValueError as error:
        raise SettingsError(f"--run: {error}.") from None


def _baselines(flags: Flags) -> list[str]:
    known = [one.name for one in zoo()]
    asked = list(flags.baselines) or list(TINY_BASELINES if flags.scale in SMALL_SCALES else known)
    for name in asked:
        one_of("--baselines", name, known)
    return asked


def _must_be_possible(settings: pb.RunSettings) -> None:
    """Ask the run's policy itself, so that what starts cannot be refused later."""
    try:
        climb = climb_of(settings.promotion, dict(settings.policies), settings.scale, dict(settings.scale_overrides))
        for stage in climb.stages:
            one_of("--policy stages", stage.scale, SCALES)
        RunPolicy(
            seats=settings.seats,
            budget=Budget(**{field.name: value for field, value in settings.budget.ListFields()}),
            baselines=tuple(settings.baselines),
            candidate_seeds=settings.candidate_seeds,
            baseline_seeds=settings.baseline_seeds,
        )
    except ValueError as error:
        raise SettingsError(f"{error}.") from None


def one_of(flag: str, value: str, known: Sequence[str]) -> None:
    """Raises SettingsError, with what was perhaps meant, unless the value is a known one."""
    if value not in known:
        choice = near(value, known) or f"; choose one of {', '.join(known)}."
        raise SettingsError(f"{flag} is {value!r}{choice}")


def _pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise SettingsError(f"{flag} is {text!r}; write it as NAME=VALUE.")
        pairs[name] = value
    return pairs
