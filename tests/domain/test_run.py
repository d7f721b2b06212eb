"""The run's policy: seats, baselines first, budgets, pauses, the end."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.discovery import DiscoveryPolicy, Finding, Outcome
from services.domain.ladder import Promote, Stage
from services.domain.pool import PoolPolicy, PoolUpdate
from services.domain.promotion import PaperPromotion, Result, SuccessiveHalving
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
    RunPolicy,
    RunState,
    Seat,
    Spending,
    Spent,
    Started,
    Stopped,
    Trained,
    Verified,
)
from services.store.backends.rows import state_from_json, state_to_json

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
    with pytest.raises(ValueError, match="name a program twice"):
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
    ("budget", "spent"),
    [
        (Budget(tokens=100), Spent(tokens=100)),
        (Budget(money=1.0), Spent(money=1.5)),
        (Budget(gpu_seconds=5), Spent(gpu_seconds=5)),
    ],
)
def test_any_part_of_the_budget_ends_the_run(budget: Budget, spent: Spent) -> None:
    """Whichever is used up first."""
    policy = replace(POLICY, budget=budget, baselines=("delta_net",), seats=1)
    state, seats = started_run(policy)
    state, _ = step(state, Spending(1.0, spent), policy)
    _, decisions = step(state, ended(seats[0]), policy)

    assert [type(decision) for decision in decisions] == [Finish]


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


def searched(policy: RunPolicy) -> tuple[RunState, tuple[object, ...]]:
    """A run whose last candidate has just ended."""
    state, decisions = step(RunState(), Started(0.0), policy)
    while seats := [decision for decision in decisions if isinstance(decision, Seat)]:
        for seat in seats[:-1]:
            state, more = step(state, ended(seat, fitness=0.5 + 0.01 * seat.number), policy)
            decisions = (*decisions, *more)
        state, last = step(state, ended(seats[-1], fitness=0.5 + 0.01 * seats[-1].number), policy)
        decisions = tuple(decision for decision in (*decisions, *last) if decision not in seats)
    return state, decisions


VERIFYING = replace(
    POLICY, promotion=SuccessiveHalving(eta=4), stages=(Stage("tiny", 3),), discovery=DiscoveryPolicy(seeds=3),
    pool=PoolPolicy(cold_start=3, batch=2),
)  # fmt: skip


def again(name: str, loss: float) -> Verified:
    """A second training at the first rung, three seeds with a little scatter."""
    noisy = tuple((1000 + seed, loss + 0.001 * (seed * len(name) % 3)) for seed in (1, 2, 3))
    return Verified(9.0, name, 1, noisy, Result(name, -loss, loss))


def test_finalists_and_controls_are_trained_again_before_a_run_ends() -> None:
    """With seeds that no selection has seen; the best proposal, the root and Gated DeltaNet."""
    state, decisions = searched(VERIFYING)
    promoted = [decision for decision in decisions if isinstance(decision, Promote)]

    assert state.phase == "verifying"
    assert [promotion.candidate for promotion in promoted] == ["c000001", "c000002", "c000006"]
    assert promoted[0].seeds == (1001, 1002, 1003)
    assert not any(isinstance(decision, Finish) for decision in decisions)


def test_a_run_without_promotions_keeps_no_results() -> None:
    """Its state stays as small after a thousand candidates as after one."""
    state, _ = searched(POLICY)

    assert [rung.waiting for rung in state.ladder.rungs] == []
    assert state.ladder.roots[0] is not None


def test_halving_promotes_while_the_search_goes_on() -> None:
    """Nobody waits for the search to end, and seats are given out all the same."""
    policy = replace(VERIFYING, promotion=SuccessiveHalving(eta=2), budget=Budget(candidates=6))
    state, decisions = step(RunState(), Started(0.0), policy)
    moments = []
    while seats := [decision for decision in decisions if isinstance(decision, Seat)]:
        state, decisions = step(state, ended(seats[0], fitness=0.5 + 0.01 * seats[0].number), policy)
        decisions = (*decisions, *seats[1:])
        moments += [
            (decision.candidate, state.proposals_ended) for decision in decisions if isinstance(decision, Promote)
        ]

    assert [ended for _, ended in moments] == [2, 2, 2, 3, 4, 5]
    assert state.phase == "verifying"


def test_a_run_without_promotable_candidates_ends_without_verification() -> None:
    """The paper's rule asks for better than the root in both; a run without finalists ends at once."""
    state, decisions = searched(replace(VERIFYING, promotion=PaperPromotion(), stages=(Stage("tiny", 3),)))

    assert not any(isinstance(decision, Promote) for decision in decisions)
    assert isinstance(decisions[-1], Finish)
    assert state.phase == "draining"


@pytest.mark.parametrize(("gain", "confirmed"), [(0.2, True), (0.0, False)])
def test_a_discovery_has_to_beat_the_strongest_control(gain: float, confirmed: bool) -> None:
    """Otherwise it is refuted or left undecided, and the run ends either way."""
    state, _ = searched(VERIFYING)
    losses = {"c000001": 1.5, "c000002": 1.4, "c000006": 1.4 - gain}
    decisions: tuple[object, ...] = ()
    for name, loss in losses.items():
        state, decisions = step(state_from_json(state_to_json(state)), again(name, loss), VERIFYING)

    (finding,) = (decision for decision in decisions if isinstance(decision, Finding))
    assert (finding.candidate, finding.control) == ("c000006", "c000002")
    assert (finding.outcome is Outcome.CONFIRMED) == confirmed
    assert isinstance(decisions[-1], Finish)


def test_a_verification_that_failed_does_not_hold_the_run_up() -> None:
    """Its claim is not confirmed; a dead letter names no rung."""
    state, _ = searched(VERIFYING)
    for name in ("c000001", "c000002"):
        state, _ = step(state, again(name, 1.5), VERIFYING)
    state, decisions = step(state, Verified(9.0, "c000006"), VERIFYING)

    (finding,) = (decision for decision in decisions if isinstance(decision, Finding))
    assert finding.outcome is Outcome.UNDECIDED
    assert isinstance(decisions[-1], Finish)


def test_a_run_that_goes_on_verifies_only_what_is_new() -> None:
    """A resumed run begins a round of its own, with seeds of its own."""
    state, _ = searched(VERIFYING)
    for name in ("c000001", "c000002", "c000006"):
        state, _ = step(state, again(name, 1.5), VERIFYING)
    state, _ = step(state, Stopped(10.0, "done", finished=True), VERIFYING)
    more = replace(VERIFYING, budget=Budget(candidates=8))
    state, decisions = step(state, Resumed(11.0), more)
    while seats := [decision for decision in decisions if isinstance(decision, Seat)]:
        state, decisions = step(state, ended(seats[0], fitness=0.9), more)
        decisions = (*decisions, *seats[1:])

    promoted = [decision for decision in decisions if isinstance(decision, Promote)]
    assert {promotion.round for promotion in promoted} == {2}
    assert {promotion.seeds for promotion in promoted} == {(2001, 2002, 2003)}
    assert "c000006" not in {promotion.candidate for promotion in promoted}
