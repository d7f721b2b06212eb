"""A run's policy, its state, the facts that change the state, and the decisions that follow: plain data.

The state stays bounded however many candidates a run has, so that a decision costs the same at any length.
"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from services.domain.discovery import DiscoveryPolicy, Finding
from services.domain.objectives import Costs
from services.domain.pool import PoolPolicy, PoolState, PoolUpdate
from services.domain.promotion import (
    Ladder,
    Losses,
    Promote,
    PromotionPolicy,
    Result,
    Stage,
)

Phase = Literal["baselines", "searching", "draining", "verifying", "paused", "stopped", "finished"]
GOING_ON: frozenset[Phase] = frozenset({"baselines", "searching", "draining", "verifying"})


CONTROLS = ("gated_delta_net", "delta_net_value_skip", "window_attention", "gated_delta_net_window")
"""Names in the zoo that a discovery has to beat beside the root."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What ends a run, whichever is used up first; None is unlimited.

    ``candidates`` counts proposals that ended, scored or rejected; baselines are not counted. Time in seconds, money in
    US dollars. Raises ``ValueError`` for a negative number.
    """

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
    """What a run has used so far, in the units of the budget."""

    training_seconds: float = 0.0
    gpu_seconds: float = 0.0
    tokens: int = 0
    money: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """The settings that steer a run. Raises ``ValueError`` naming the setting that is impossible."""

    seats: int = 2
    budget: Budget = field(default_factory=Budget)
    baselines: tuple[str, ...] = ("delta_net",)
    ahead: bool = False  # a seat is free again once its candidate is trained: judging and analysing take minutes
    controls: tuple[str, ...] = CONTROLS  # of the baselines, beside the root
    seed_programs: tuple[str, ...] = ()  # given by hand, trained after the baselines; they count against no budget
    seed: int = 1
    candidate_seeds: int = 1
    baseline_seeds: int = 1
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    promotion: PromotionPolicy | None = None  # None: no promotion
    stages: tuple[Stage, ...] = ()  # above the search; the last one gives the verdicts
    discovery: DiscoveryPolicy = field(default_factory=DiscoveryPolicy)
    ablations: int = 0  # that the analyst may ask for on its own

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
        if len({*self.baselines, *self.seed_programs}) < len(self.baselines) + len(self.seed_programs):
            raise ValueError("baselines and seed programs name a program twice")

    def given(self, candidate: str) -> bool:
        """Whether the candidate is a seed program: they have the numbers after the baselines."""
        first = len(self.baselines) + 1
        return candidate in {candidate_id(first + place) for place in range(len(self.seed_programs))}

    def seeds(self, baseline: bool) -> tuple[int, ...]:
        """The seeds of a candidate's trainings. The same for all, so that differences can be paired."""
        return tuple(range(1, 1 + (self.baseline_seeds if baseline else self.candidate_seeds)))


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    phase: Phase = "baselines"
    numbers: int = 0  # seats given out so far
    baselines_asked: int = 0  # seed programs included, and so in `baselines_open`
    proposals_asked: int = 0
    proposals_ended: int = 0
    ablations_asked: int = 0
    in_flight: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()  # of those in flight: only verdict and analysis are awaited
    baselines_open: frozenset[str] = frozenset()
    baselines_failed: frozenset[str] = frozenset()
    root_failed: bool = False
    unpaid: bool = False  # a question was not put, because it could have exceeded the budget
    ladder: Ladder = field(default_factory=Ladder)
    started: float = 0.0
    paused_at: float | None = None
    paused_seconds: float = 0.0
    latest: float = 0.0  # time of the newest fact
    spent: Spent = field(default_factory=Spent)
    pool: PoolState = field(default_factory=PoolState)
    reason: str = ""

    def seconds(self, now: float) -> float:
        """Wall time of the run at ``now``, pauses not counted."""
        until = self.paused_at if self.paused_at is not None else now
        return max(0.0, until - self.started - self.paused_seconds)


def candidate_id(number: int) -> str:
    """Ids sort by age as text up to a million."""
    return f"c{number:06d}"


def ablation_id(number: int) -> str:
    """Another letter, so that ablations are distinguished from proposals at sight."""
    return f"a{number:06d}"


@dataclass(frozen=True, slots=True)
class Started:
    time: float


@dataclass(frozen=True, slots=True)
class Paused:
    time: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    time: float


@dataclass(frozen=True, slots=True)
class Forked:
    """The history shared with another run ends here; what was under way there begins again.

    With ``other_rules`` the fork promotes by other rules than its source, so that what was found is weighed anew.
    """

    time: float
    other_rules: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    time: float
    reason: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Spending:
    """Work or thinking that was paid for, whatever came of it."""

    time: float
    spent: Spent


@dataclass(frozen=True, slots=True)
class Asked:
    """A seat that the console asked for: an ablation, outside the budget of proposals."""

    time: float
    candidate: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate was trained; verdict and analysis are still awaited."""

    time: float
    candidate: str


@dataclass(frozen=True, slots=True)
class Retried:
    """A candidate that ended by a dead letter is on its way again. Its seat may be one more than the run has."""

    time: float
    candidate: str
    baseline: bool
    root: bool
    proposal: bool


@dataclass(frozen=True, slots=True)
class AblationWanted:
    """Somebody wants a candidate trained again without one of its components, with the same seeds."""

    time: float
    candidate: str
    component: str
    seeds: tuple[int, ...]
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A candidate was archived. ``fitness`` is None for a rejection and for what could not be scored."""

    time: float
    candidate: str
    sequence: int
    fitness: float | None
    parent: str | None
    baseline: bool
    root: bool
    rejected: bool
    proposal: bool = True
    unpaid: bool = False  # rejected with this in its evidence
    result: Result | None = None  # what promotion reads; None where something that it needs was not measured
    costs: Costs | None = None  # of a run with several objectives


@dataclass(frozen=True, slots=True)
class Rescored:
    """The fitness of a candidate that ended was computed anew."""

    time: float
    candidate: str
    fitness: float


@dataclass(frozen=True, slots=True)
class Verified:
    """A candidate or control was trained again; ``losses`` is empty and ``result`` None where that failed.

    ``rung`` None means every rung at which it is being trained: its work could not be handled.
    """

    time: float
    candidate: str
    rung: int | None = None
    losses: Losses = ()
    result: Result | None = None


Fact = (
    Started
    | Paused
    | Resumed
    | Forked
    | Stopped
    | Spending
    | Asked
    | Trained
    | Retried
    | AblationWanted
    | Ended
    | Rescored
    | Verified
)


@dataclass(frozen=True, slots=True)
class Seat:
    """Ask for one more candidate."""

    candidate: str
    number: int
    baseline: str  # its name in the zoo or among the run's own programs; empty for a proposal
    seeds: tuple[int, ...]
    seed_program: str = ""  # its name among the run's own programs, where that is what is to be trained


@dataclass(frozen=True, slots=True)
class Ablation:
    """Ask for another candidate without one of its components."""

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
