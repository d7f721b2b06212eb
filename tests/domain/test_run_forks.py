"""What a run's policy makes of a fork: the seats under way are asked for again, and the time between does not count."""

from services.domain.discovery import DiscoveryPolicy, Finding
from services.domain.ladder import Promote, Stage
from services.domain.promotion import Budget as Size
from services.domain.promotion import Result, SuccessiveHalving
from services.domain.run import step
from services.domain.run_state import (
    Budget,
    Ended,
    Forked,
    Paused,
    Resumed,
    RunPolicy,
    RunState,
    Seat,
    Started,
    Verified,
)

POLICY = RunPolicy(seats=2, baselines=("delta_net", "gla"), budget=Budget(candidates=4))


def started_run() -> RunState:
    """The root has ended; the second baseline is under way."""
    state, _ = step(RunState(), Started(100.0), POLICY)
    state, _ = step(state, Ended(110.0, "c000001", 5, 0.5, None, baseline=True, root=True, rejected=False), POLICY)
    return state


def test_open_candidates_are_requested_again_under_their_numbers() -> None:
    """A baseline stays the baseline it was; nothing is asked for twice."""
    state, decisions = step(started_run(), Forked(500.0), POLICY)

    assert decisions == (Seat("c000002", 2, "gla", (1,)),)
    assert (state.numbers, state.in_flight, state.phase) == (2, frozenset({"c000002"}), "baselines")


def test_the_time_between_history_and_fork_does_not_count() -> None:
    """A run of ten seconds that is forked a day later has used ten seconds."""
    paused, _ = step(started_run(), Paused(110.0), POLICY)
    state, _ = step(paused, Forked(86_500.0), POLICY)

    assert state.seconds(86_505.0) == 15.0


def test_a_finished_run_goes_on_as_a_fork_with_another_budget() -> None:
    """As it would if it were resumed."""
    poor = RunPolicy(seats=2, baselines=("delta_net",), budget=Budget(candidates=0))
    state, _ = step(RunState(), Started(0.0), poor)
    over, _ = step(state, Ended(1.0, "c000001", 5, 0.5, None, baseline=True, root=True, rejected=False), poor)
    rich = RunPolicy(seats=2, baselines=("delta_net",), budget=Budget(candidates=3))
    forked, decisions = step(over, Forked(9.0), rich)
    resumed, _ = step(step(over, Paused(1.0), poor)[0], Resumed(9.0), rich)

    assert [decision.candidate for decision in decisions if isinstance(decision, Seat)] == ["c000002", "c000003"]
    assert forked.in_flight == resumed.in_flight


def test_a_candidate_verified_again_by_a_fork_counts_as_another_trial() -> None:
    """A second test is a second chance of a false claim; whoever asks twice pays for both."""
    policy = RunPolicy(
        seats=1, baselines=("delta_net",), controls=(), budget=Budget(candidates=2), stages=(Stage("mini", 3),),
        promotion=SuccessiveHalving(eta=2, budget=Size(None, None)), discovery=DiscoveryPolicy(seeds=3),
    )  # fmt: skip
    state, _ = step(RunState(), Started(0.0), policy)
    findings: list[Finding] = []
    for number, loss in enumerate((2.0, 1.8, 1.9), 1):
        name = f"c{number:06d}"
        ended = Ended(1.0, name, 5, -loss, None, number == 1, number == 1, False, result=Result(name, -loss, loss))
        state, _ = step(state, ended, policy)
    for _ in range(2):
        seeds = 1000 * state.ladder.rounds + 1
        for name, loss in (("c000001", 2.0), ("c000002", 1.9)):
            losses = tuple((seeds + at, loss + 0.01 * at) for at in range(3))
            state, decisions = step(state, Verified(2.0, name, 1, losses, Result(name, None, loss)), policy)
            findings += [decision for decision in decisions if isinstance(decision, Finding)]
        state, decisions = step(state, Forked(3.0, other_rules=True), policy)
        assert {decision.candidate for decision in decisions if isinstance(decision, Promote)} == {"c000001", "c000002"}

    assert [finding.tried for finding in findings] == [2, 4]
