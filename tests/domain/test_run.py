"""The run's policy: seats, baselines first, budgets, pauses, the end."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.pool import PoolUpdate
from services.domain.run import step
from services.domain.run_state import (
    Ablation,
    AblationRequested,
    AblationSeat,
    Budget,
    Ended,
    Finish,
    Paused,
    Resumed,
    RunState,
    Seat,
    Spending,
    Spent,
    Started,
    Stopped,
    Trained,
)
from services.store.backends.rows import state_from_json, state_to_json
from tests.domain.runs import POLICY, ended, started_run


def test_a_run_begins_with_as_many_baselines_as_it_has_seats() -> None:
    """The root first: all differences refer to it."""
    _, seats = started_run()

    assert [(seat.candidate, seat.baseline) for seat in seats] == [
        ("c000001", "delta_net"),
        ("c000002", "gated_delta_net"),
    ]


def test_seed_programs_follow_the_baselines_and_use_up_no_budget() -> None:
    """A search goes on from what somebody has already, and still gets all the proposals that were paid for."""
    policy = replace(POLICY, baselines=("delta_net",), seed_programs=("mine",), budget=Budget(candidates=1))
    state, (root, seed) = started_run(policy)
    state, _ = step(state, ended(root), policy)
    state, decisions = step(state, ended(seed, fitness=0.7), policy)
    (proposal,) = [decision for decision in decisions if isinstance(decision, Seat)]

    assert [(seat.candidate, seat.baseline, seat.seed_program) for seat in (root, seed, proposal)] == [
        ("c000001", "delta_net", ""),
        ("c000002", "", "mine"),
        ("c000003", "", ""),
    ]
    assert (state.proposals_asked, state.proposals_ended) == (1, 0)
    with pytest.raises(ValueError, match="delta_net is named twice among"):
        replace(policy, seed_programs=("delta_net",))


def test_a_seat_is_free_again_once_its_candidate_is_trained_where_a_model_judges() -> None:
    """Verdict and analysis take minutes of an endpoint, in which the machine would stand idle; the wait is bounded."""
    policy = replace(POLICY, baselines=("delta_net",), seats=1, budget=Budget(candidates=9), ahead=True)
    state, (root,) = started_run(policy)
    requested: list[list[str]] = []

    def heard(state: RunState, fact: Trained | Ended) -> RunState:
        after, decisions = step(state, fact, policy)
        requested.append([decision.candidate for decision in decisions if isinstance(decision, Seat)])
        return after

    state = heard(heard(state, Trained(1.0, root.candidate)), ended(root))
    before = state = heard(state, Trained(2.0, "c000002"))
    state = heard(state, Trained(3.0, "c000003"))

    # Baselines come first; at the end two candidates wait for a verdict.
    assert requested == [[], ["c000002"], ["c000003"], []]
    assert state_from_json(state_to_json(state)) == state
    assert not step(before, Trained(2.0, "c000002"), replace(policy, ahead=False))[1]


def test_no_proposal_is_asked_for_before_every_baseline_has_ended() -> None:
    """Proposals are drawn from what the baselines measured."""
    state, seats = started_run()
    state, third = step(state, ended(seats[0]), POLICY)
    state, none = step(state, ended(seats[1]), POLICY)
    state, proposals = step(state, ended(third[0]), POLICY)  # type: ignore[arg-type]

    assert [decision.baseline for decision in third if isinstance(decision, Seat)] == ["gla"]
    assert none == ()
    assert [decision.baseline for decision in proposals if isinstance(decision, Seat)] == ["", ""]


def test_a_rejection_frees_its_seat() -> None:
    """Otherwise rejections would bring a run to a standstill."""
    state, seats = started_run()
    _, decisions = step(state, ended(seats[1], rejected=True), POLICY)

    assert [decision.baseline for decision in decisions if isinstance(decision, Seat)] == ["gla"]


def test_a_rejected_root_ends_the_run_with_its_reason() -> None:
    """There is nothing to compare with."""
    state, seats = started_run()
    state, _ = step(state, ended(seats[0], rejected=True), POLICY)
    _, decisions = step(state, ended(seats[1]), POLICY)

    assert decisions == (Finish("the root baseline delta_net was rejected: there is nothing to compare with"),)


def test_the_same_end_twice_counts_once() -> None:
    """Deliveries repeat."""
    state, seats = started_run()
    once, _ = step(state, ended(seats[0]), POLICY)
    twice, decisions = step(once, ended(seats[0]), POLICY)

    assert twice == once
    assert decisions == ()


def test_a_paused_run_opens_no_seat_and_a_resumed_run_does() -> None:
    """The time of a pause does not count."""
    state, seats = started_run()
    state, _ = step(state, Paused(10.0), POLICY)
    state, none = step(state, ended(seats[0], time=11.0), POLICY)
    state, again = step(state, Resumed(110.0), POLICY)

    assert none == ()
    assert [decision.baseline for decision in again if isinstance(decision, Seat)] == ["gla"]
    assert state.seconds(120.0) == 20.0


@pytest.mark.parametrize(
    ("budget", "spent", "words"),
    [
        (Budget(tokens=2_000_000), Spent(tokens=2_000_000), "2,000,000 tokens"),
        (Budget(money=1.0), Spent(money=1.5), "1 dollar"),
        (Budget(gpu_seconds=0.5), Spent(gpu_seconds=5), "0.5 GPU seconds"),
    ],
)
def test_any_part_of_the_budget_ends_the_run(budget: Budget, spent: Spent, words: str) -> None:
    """Whichever is used up first."""
    policy = replace(POLICY, budget=budget, baselines=("delta_net",), seats=1)
    state, seats = started_run(policy)
    state, _ = step(state, Spending(1.0, spent), policy)
    _, decisions = step(state, ended(seats[0]), policy)

    assert decisions == (Finish(f"the budget of {words} is used up"),)


def test_wall_time_is_measured_by_the_times_of_facts() -> None:
    """A replay must end in the same way at any time."""
    policy = replace(POLICY, budget=Budget(seconds=60), baselines=("delta_net",), seats=1)
    state, seats = started_run(policy)
    _, decisions = step(state, ended(seats[0], time=61.0), policy)

    assert [type(decision) for decision in decisions] == [Finish]


def test_a_stopped_run_requests_nothing_more() -> None:
    """The user has the last word."""
    state, seats = started_run()
    state, _ = step(state, Stopped(5.0, "enough", finished=False), POLICY)
    state, decisions = step(state, ended(seats[0]), POLICY)

    assert decisions == ()
    assert (state.phase, state.reason) == ("stopped", "enough")


def test_an_ablation_holds_a_seat_but_is_no_proposal() -> None:
    """It is asked for by hand, outside the budget of candidates."""
    state, _ = started_run()
    state, _ = step(state, AblationSeat(1.0, "a000001"), POLICY)

    assert "a000001" in state.in_flight
    assert state.proposals_asked == 0


def ablation_request(by_hand: bool, component: str = "output-gate") -> AblationRequested:
    return AblationRequested(2.0, "c000004", component, (1, 2), by_hand)


def test_the_analyst_asks_for_ablations_within_a_budget() -> None:
    """Each holds a seat; beyond the budget nothing happens."""
    policy = replace(POLICY, ablations=1)
    state, _ = started_run(policy)
    state, first = step(state, ablation_request(by_hand=False), policy)
    state, second = step(state, ablation_request(by_hand=False, component="forget-gate"), policy)

    assert first[0] == Ablation("a000003", 3, "c000004", "output-gate", (1, 2))
    assert not any(isinstance(decision, Ablation) for decision in second)
    assert "a000003" in state.in_flight
    assert state.proposals_asked == 0


def test_by_hand_an_ablation_is_asked_for_even_when_the_run_is_over() -> None:
    """Questions come when the results are in; its end changes neither pool nor budget."""
    state, _ = started_run()
    state, _ = step(state, Stopped(5.0, "done", finished=True), POLICY)
    state, decisions = step(state, ablation_request(by_hand=True), POLICY)
    name = next(decision.candidate for decision in decisions if isinstance(decision, Ablation))
    over = Ended(9.0, name, 99, None, "c000004", baseline=False, root=False, rejected=False, proposal=False)
    state, after = step(state, over, POLICY)

    assert name not in state.in_flight
    assert (state.phase, state.proposals_ended, after) == ("finished", 0, ())


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["score", "reject", "none"])), max_size=60), st.integers(1, 4)
)
def test_seats_and_budget_are_never_exceeded(order: list[tuple[int, str]], seats: int) -> None:
    """For any order of ends, and the state survives serialisation."""
    policy = replace(POLICY, seats=seats)
    state, decisions = step(RunState(), Started(0.0), policy)
    open_seats = [decision for decision in decisions if isinstance(decision, Seat)]
    requested, updates = list(open_seats), 0
    for position, how in order:
        if not open_seats:
            break
        seat = open_seats.pop(position % len(open_seats))
        fact = ended(
            seat, fitness=0.1 * position if how == "score" else None, rejected=how == "reject" and seat.number > 1
        )
        state, decisions = step(state_from_json(state_to_json(state)), fact, policy)
        open_seats += [decision for decision in decisions if isinstance(decision, Seat)]
        requested += [decision for decision in decisions if isinstance(decision, Seat)]
        updates += sum(isinstance(decision, PoolUpdate) for decision in decisions)
        assert len(open_seats) == len(state.in_flight) <= seats

    assert len([request for request in requested if not request.baseline]) <= 3
    assert len({request.candidate for request in requested}) == len(requested)
    assert updates == state.pool.updates


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"seats": 0}, "seats"),
        ({"baselines": ()}, "baselines"),
        ({"baselines": ("a", "a")}, "twice"),
        ({"candidate_seeds": 0}, "candidate_seeds"),
    ],
)
def test_an_impossible_policy_is_refused_by_name(wrong: dict[str, object], named: str) -> None:
    """Before a run starts, not in its middle."""
    with pytest.raises(ValueError, match=named):
        replace(POLICY, **wrong)  # type: ignore[arg-type]
