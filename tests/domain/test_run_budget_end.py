"""A run ends when its budget covers no further model call, instead of rejecting seats."""

from services.domain.run import step
from services.domain.run_state import (
    Budget,
    Decision,
    Ended,
    Finish,
    Resumed,
    RunPolicy,
    RunState,
    Seat,
    Started,
)
from services.store.backends.rows import state_from_json, state_to_json

POLICY = RunPolicy(seats=2, baselines=("delta_net",), budget=Budget(tokens=40_000))


def ended(candidate: str, unpaid: bool = False, baseline: bool = False) -> Ended:
    """A baseline that was measured, or a proposal that was rejected."""
    return Ended(
        time=2.0, candidate=candidate, sequence=9, fitness=0.5 if baseline else None, parent=None,
        baseline=baseline, root=baseline, rejected=not baseline, unpaid=unpaid,
    )  # fmt: skip


def searching() -> RunState:
    """Two proposals are in flight."""
    state, _ = step(RunState(), Started(1.0), POLICY)
    state, decisions = step(state, ended("c000001", baseline=True), POLICY)

    assert [decision.candidate for decision in decisions if isinstance(decision, Seat)] == ["c000002", "c000003"]
    return state


def seats(decisions: tuple[Decision, ...]) -> list[Decision]:
    """The seats among them."""
    return [decision for decision in decisions if isinstance(decision, Seat)]


def test_a_seat_beyond_the_budget_is_the_last_one() -> None:
    """What is in flight ends, then the run, and it says why."""
    state, decisions = step(searching(), ended("c000002", unpaid=True), POLICY)
    assert not seats(decisions)
    assert state.phase == "draining"

    state, decisions = step(state, ended("c000003"), POLICY)
    assert decisions == (Finish("what is left of the budget does not cover another question to a model"),)


def test_any_other_rejection_frees_its_seat() -> None:
    """Rejections are a usual end."""
    _, decisions = step(searching(), ended("c000002"), POLICY)

    assert len(seats(decisions)) == 1


def test_a_run_that_is_resumed_asks_again() -> None:
    """It may have another budget, which is why somebody resumed it. The mark outlives a restart until then."""
    state, _ = step(searching(), ended("c000002", unpaid=True), POLICY)
    state = state_from_json(state_to_json(state))
    assert state.unpaid

    state, _ = step(state, ended("c000003"), POLICY)
    state, decisions = step(RunState(**{**vars(state), "phase": "finished"}), Resumed(3.0), POLICY)
    assert len(seats(decisions)) == 2
    assert not state.unpaid
