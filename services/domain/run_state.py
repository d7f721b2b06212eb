"""A run's policy, its state, the facts that change the state, and the resulting decisions, as plain data.

The state is bounded, so that a decision costs the same at any length of a run.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Literal

from services.domain.discovery import DiscoveryPolicy, Finding
from services.domain.ladder import Ladder, Losses, Promote, Stage
from services.domain.objectives import Costs
from services.domain.pool import PoolPolicy, PoolState, PoolUpdate
from services.domain.promotion import PromotionPolicy, Result

MAX_TOKENS = 2**63
END_OF_TIME = 253_402_300_800.0  # in seconds since the epoch: the year 10000, which no timestamp can express
Phase = Literal["baselines", "searching", "draining", "verifying", "paused", "stopped", "finished"]
GOING_ON: frozenset[Phase] = frozenset({"baselines", "searching", "draining", "verifying"})


CONTROLS = ("gated_delta_net", "delta_net_value_skip", "window_attention", "gated_delta_net_window")
"""Baselines that a discovery has to beat, besides the root."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a run, None for unlimited; ``candidates`` counts proposals that ended, ``money`` is US dollars."""

    candidates: int | None = None
    seconds: float | None = None
    gpu_seconds: float | None = None
    tokens: int | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value >= 0:
                raise ValueError(f"budget.{name} must not be negative, but is {value!r}")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used so far, in the units of the budget. Raises ``ValueError`` for an impossible number."""

    training_seconds: float = 0.0
    gpu_seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0
    flops: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < (MAX_TOKENS if name == "tokens" else math.inf):
                raise ValueError(f"a run cannot have spent {value!r} of {name}")


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """The settings that steer a run. Raises ``ValueError`` naming the setting that is impossible."""

    seats: int = 2
    budget: Budget = field(default_factory=Budget)
    baselines: tuple[str, ...] = ("delta_net",)
    ahead: bool = False  # a seat is free again once its candidate is trained
    controls: tuple[str, ...] = CONTROLS  # of the baselines, beside the root
    seed_programs: tuple[str, ...] = ()  # the user's own, trained after the baselines, outside the budget
    seed: int = 1
    candidate_seeds: int = 1
    baseline_seeds: int = 1
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    promotion: PromotionPolicy | None = None  # None: no promotion
    stages: tuple[Stage, ...] = ()  # above the search
    discovery: DiscoveryPolicy = field(default_factory=DiscoveryPolicy)
    ablations: int = 0  # that the analyst may request

    def __post_init__(self) -> None:
        for name in ("seats", "candidate_seeds", "baseline_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.ablations < 0:
            raise ValueError(f"ablations must be 0 or more, not {self.ablations}")
        if self.promotion is not None and not self.stages:
            raise ValueError("stages must name at least one stage above the search for candidates to go up to")
        if not self.baselines:
            raise ValueError("baselines must name at least one program: the first is what all others are compared with")
        names = (*self.baselines, *self.seed_programs)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} is named twice among baselines and seed programs")

    def is_seed_program(self, candidate: str) -> bool:
        """Whether the candidate is a seed program; those are numbered after the baselines."""
        first = len(self.baselines) + 1
        return candidate in {candidate_id(first + offset) for offset in range(len(self.seed_programs))}

    def seeds(self, baseline: bool) -> tuple[int, ...]:
        """The seeds of a candidate's trainings, common to all, so that differences are paired."""
        return tuple(range(1, 1 + (self.baseline_seeds if baseline else self.candidate_seeds)))


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    phase: Phase = "baselines"
    numbers: int = 0  # seats so far
    baselines_asked: int = 0  # with seed programs, as in `baselines_open`
    proposals_asked: int = 0
    proposals_ended: int = 0
    ablations_asked: int = 0
    in_flight: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()  # in flight, waiting for verdict and analysis
    baselines_open: frozenset[str] = frozenset()
    baselines_failed: frozenset[str] = frozenset()
    root_failed: bool = False
    unpaid: bool = False  # a model call was refused because it could have exceeded the budget
    ladder: Ladder = field(default_factory=Ladder)
    started: float = 0.0
    paused_at: float | None = None
    paused_seconds: float = 0.0
    latest: float = 0.0  # time of the newest fact
    spent: Spent = field(default_factory=Spent)
    pool: PoolState = field(default_factory=PoolState)
    reason: str = ""

    def seconds(self, now: float) -> float:
        """Wall time of the run at ``now`` without pauses."""
        until = self.paused_at if self.paused_at is not None else now
        return max(0.0, until - self.started - self.paused_seconds)


def candidate_id(number: int) -> str:
    """Ids sort by age as text, up to a million."""
    return f"c{number:06d}"


@dataclass(frozen=True, slots=True)
class _Timed:
    time: float  # since the epoch

    def __post_init__(self) -> None:
        if not 0 <= self.time < END_OF_TIME:
            raise ValueError(f"{self.time!r} seconds after the start of 1970 is not a time of the years up to 9999")


@dataclass(frozen=True, slots=True)
class _OfCandidate(_Timed):
    candidate: str


@dataclass(frozen=True, slots=True)
class Started(_Timed):
    pass


@dataclass(frozen=True, slots=True)
class Paused(_Timed):
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed(_Timed):
    pass


@dataclass(frozen=True, slots=True)
class Forked(_Timed):
    """The end of a shared history; candidates in flight begin again. ``other_rules``: promotion has other rules."""

    other_rules: bool = False


@dataclass(frozen=True, slots=True)
class Stopped(_Timed):
    reason: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Spending(_Timed):
    """Compute, tokens or money that were spent."""

    spent: Spent


@dataclass(frozen=True, slots=True)
class AblationSeat(_OfCandidate):
    """A seat for an ablation, outside the budget of proposals."""


@dataclass(frozen=True, slots=True)
class Trained(_OfCandidate):
    """A candidate was trained; verdict and analysis are pending."""


@dataclass(frozen=True, slots=True)
class Retried(_OfCandidate):
    """A candidate that ended by a dead letter is retried; its seat may exceed the run's number."""

    baseline: bool
    root: bool
    proposal: bool


@dataclass(frozen=True, slots=True)
class AblationRequested(_OfCandidate):
    """A request to train a candidate without one of its components, with the same seeds."""

    component: str
    seeds: tuple[int, ...]
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Ended(_OfCandidate):
    """A candidate was archived; ``fitness`` is None if it was rejected or not scored."""

    sequence: int
    fitness: float | None
    parent: str | None
    baseline: bool
    root: bool
    rejected: bool
    proposal: bool = True
    unpaid: bool = False  # rejected with this in its evidence
    result: Result | None = None  # for promotion; None if a measurement is missing
    costs: Costs | None = None  # of a run with several objectives


@dataclass(frozen=True, slots=True)
class Rescored(_OfCandidate):
    """The fitness of a candidate was recomputed."""

    fitness: float


@dataclass(frozen=True, slots=True)
class Verified(_OfCandidate):
    """A candidate or control was trained again; without ``losses`` and ``result`` if that failed.

    ``rung`` None stands for every rung at which it is being trained, after a dead letter.
    """

    rung: int | None = None
    losses: Losses = ()
    result: Result | None = None
    conditions: frozenset[str] = frozenset()  # held-out text and precision of these losses


Fact = (Started | Paused | Resumed | Forked | Stopped | Spending | AblationSeat | Trained | Retried
        | AblationRequested | Ended | Rescored | Verified)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seat:
    """Request one more candidate."""

    candidate: str
    number: int
    baseline: str  # its name; empty for a proposal
    seeds: tuple[int, ...]
    seed_program: str = ""  # its name among the run's own programs


@dataclass(frozen=True, slots=True)
class Ablation:
    """Request an ablation: a candidate without one of its components."""

    candidate: str
    number: int
    of: str
    component: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over."""

    reason: str


Decision = Seat | Ablation | PoolUpdate | Promote | Finding | Finish
