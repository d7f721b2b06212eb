"""Runs that tests of the policy begin and end candidates of."""

from services.domain.pool import PoolPolicy
from services.domain.promotion import Result
from services.domain.run import step
from services.domain.run_state import (
    Budget,
    Ended,
    RunPolicy,
    RunState,
    Seat,
    Started,
)

POLICY = RunPolicy(
    seats=2,
    budget=Budget(candidates=3),
    baselines=("delta_net", "gated_delta_net", "gla"),
    pool=PoolPolicy(size=5, parents=2, references=1, cold_start=3, batch=2),
)


def started_run(policy: RunPolicy = POLICY) -> tuple[RunState, list[Seat]]:
    state, decisions = step(RunState(), Started(0.0), policy)
    return state, [decision for decision in decisions if isinstance(decision, Seat)]


def ended(seat: Seat, time: float = 1.0, fitness: float | None = 0.5, rejected: bool = False) -> Ended:
    return Ended(
        time=time, candidate=seat.candidate, sequence=seat.number, fitness=None if rejected else fitness,
        parent=None, baseline=bool(seat.baseline), root=seat.baseline == "delta_net", rejected=rejected,
        result=None if rejected or fitness is None else Result(seat.candidate, fitness, 1.5, 0.3, 1000, 10.0),
    )  # fmt: skip
