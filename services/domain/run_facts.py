"""What the policy of a run is told, and what it decides."""

from dataclasses import dataclass

from services.domain.discovery import Finding
from services.domain.ladder import Losses, Promote
from services.domain.pool import PoolUpdate
from services.domain.promotion import Result
from services.domain.run_state import Spent

UNPAID = "unpaid"
"""In the evidence of a rejection: what is left of the budget does not cover a question that the candidate needs."""


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
    """The history shared with another run ends here; what was under way there begins again."""

    time: float


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
class Retried:
    """A candidate that ended by a dead letter is on its way again. Its seat may be one more than the run has."""

    time: float
    candidate: str
    baseline: bool
    root: bool
    proposal: bool


@dataclass(frozen=True, slots=True)
class Wanted:
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


Fact = Started | Paused | Resumed | Forked | Stopped | Spending | Asked | Retried | Wanted | Ended | Verified


@dataclass(frozen=True, slots=True)
class Seat:
    """Ask for one more candidate."""

    candidate: str
    number: int
    baseline: str  # its name in the zoo; empty for a proposal
    seeds: tuple[int, ...]


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
