"""The end of a run: second trainings of finalists and controls, and the findings."""

import random
from dataclasses import replace

import pytest

from services.contracts import candidate_pb2 as pb
from services.domain.discovery import DiscoveryPolicy, Finding, Outcome
from services.domain.ladder import Promote, Stage
from services.domain.pool import PoolPolicy
from services.domain.promotion import Budget as Size
from services.domain.promotion import PaperPromotion, Result, SuccessiveHalving
from services.domain.run import step
from services.domain.run_state import (
    Budget,
    Finish,
    Resumed,
    RunPolicy,
    RunState,
    Seat,
    Started,
    Stopped,
    Verified,
)
from services.store.backends.rows import state_from_json, state_to_json
from tests.domain.runs import POLICY, ended


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
    noisy = tuple((1000 + seed, loss + 0.001 * (seed * int(name[-1]) % 3)) for seed in (1, 2, 3))
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


@pytest.mark.parametrize("other", ["another text fp32", "a text bf16-autocast"])
def test_losses_on_another_text_or_in_another_precision_decide_nothing(other: str) -> None:
    """An engineer that lost its secret measures on a text of its own, and a gain may then be the text's."""
    outcomes = []
    for condition in ("a text fp32", other):
        state, _ = searched(VERIFYING)
        decisions: tuple[object, ...] = ()
        for name, loss in {"c000001": 1.5, "c000002": 1.4, "c000006": 1.2}.items():
            measured = frozenset({condition if name == "c000002" else "a text fp32"})
            fact = replace(again(name, loss), conditions=measured)
            state, decisions = step(state_from_json(state_to_json(state)), fact, VERIFYING)
        (finding,) = (decision for decision in decisions if isinstance(decision, Finding))
        outcomes.append((finding.outcome, finding.effect is None, "ASI_ENGINEER_TEXT_SEED" in finding.reason))

    assert outcomes == [(Outcome.CONFIRMED, False, False), (Outcome.UNDECIDED, True, True)]


def test_a_verification_that_failed_does_not_hold_the_run_up() -> None:
    """Its claim is not confirmed; a dead letter names no rung."""
    state, _ = searched(VERIFYING)
    for name in ("c000001", "c000002"):
        state, _ = step(state, again(name, 1.5), VERIFYING)
    state, decisions = step(state, Verified(9.0, "c000006"), VERIFYING)

    (finding,) = (decision for decision in decisions if isinstance(decision, Finding))
    assert finding.outcome is Outcome.UNDECIDED
    assert isinstance(decisions[-1], Finish)


def test_a_control_whose_verification_failed_leaves_all_claims_undecided() -> None:
    """It could have been the strongest; a candidate must not win because a control crashed."""
    state, _ = searched(VERIFYING)
    for name, loss in (("c000001", 1.5), ("c000006", 1.2)):
        state, _ = step(state, again(name, loss), VERIFYING)
    state, decisions = step(state, Verified(9.0, "c000002"), VERIFYING)

    (finding,) = (decision for decision in decisions if isinstance(decision, Finding))
    assert (finding.outcome, finding.effect) == (Outcome.UNDECIDED, None)
    assert finding.reason == "0 of 3 seeds are there for it and for every control"
    assert finding.controls == ("c000001", "c000002")


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


def test_the_level_holds_however_often_a_run_is_extended() -> None:
    """Ten rounds of one candidate each, none of a true gain: a round may use half of what the earlier ones left."""
    rng, runs, false = random.Random(3), 100, 0
    policy = replace(
        VERIFYING, baselines=("delta_net",), promotion=SuccessiveHalving(eta=2, budget=Size(None, None)), controls=()
    )
    for _ in range(runs):
        state, decisions = step(RunState(), Started(0.0), replace(policy, budget=Budget(candidates=0)))
        confirmed, shares = False, list[float]()
        for candidates in range(1, 11):
            extended = replace(policy, budget=Budget(candidates=candidates))
            state, more = step(state, Resumed(11.0), extended)
            decisions = (*decisions, *more)
            while seats := [decision for decision in decisions if isinstance(decision, Seat)]:
                state, decisions = step(state, ended(seats[0], fitness=0.5 + 0.01 * candidates), extended)
            for promoted in [decision for decision in decisions if isinstance(decision, Promote)]:
                losses = tuple((seed, 1.5 + rng.gauss(0, 0.02)) for seed in promoted.seeds)
                fact = Verified(9.0, promoted.candidate, 1, losses, Result(promoted.candidate, None, 1.5))
                state, decisions = step(state, fact, extended)
            (finding,) = (decision for decision in decisions if isinstance(decision, Finding))
            confirmed |= finding.outcome is Outcome.CONFIRMED
            shares.append(1 / finding.tried)
            state, decisions = step(state, Stopped(10.0, "done", finished=True), extended)
        false += confirmed

        assert sum(shares) < 1
    assert false / runs < 0.05


@pytest.mark.parametrize("used", [1 - 1e-10, 1.0])
def test_a_run_that_was_extended_for_ever_still_has_verdicts(used: float) -> None:
    """Half of the rest, again and again, is a number of trials that no message holds, and then a division by zero."""
    state, _ = searched(VERIFYING)
    state = replace(state, ladder=replace(state.ladder, level_used=used))
    for name, loss in (("c000001", 1.5), ("c000006", 1.2), ("c000002", 1.4)):
        state, decisions = step(state, again(name, loss), VERIFYING)

    (finding,) = (decision for decision in decisions if isinstance(decision, Finding))
    assert finding.outcome is Outcome.UNDECIDED
    assert pb.Discovery(tried=finding.tried).tried == finding.tried
