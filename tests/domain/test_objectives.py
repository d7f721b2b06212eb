"""Several objectives: dominance, order, hypervolume, and what the pool and the promotion make of them."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import pool
from services.domain.ladder import Ladder
from services.domain.objectives import (
    OBJECTIVES,
    Costs,
    costs_of,
    crowding,
    dominates,
    fronts,
    hypervolume,
    nsga_order,
    parse_objectives,
    progress,
    reference_of,
    scalarised,
)
from services.domain.pool import Entry, PoolPolicy, PoolState
from services.domain.promotion import Budget, PaperPromotion, Result, Rung, SuccessiveHalving
from services.domain.run_state import RunState
from services.store.backends.rows import state_from_json, state_to_json


def points(width: int = 3, max_size: int = 8) -> st.SearchStrategy[list[Costs]]:
    """On a coarse grid, so that ties and equal points come up often."""
    cost = st.integers(1, 6).map(float)
    return st.lists(st.tuples(*[cost] * width), max_size=max_size)


@given(points())
def test_every_round_is_free_of_dominance_and_dominated_by_the_one_before(given_points: list[Costs]) -> None:
    rounds = fronts(given_points)

    assert sorted(itertools.chain.from_iterable(rounds)) == list(range(len(given_points)))
    for front in rounds:
        assert not any(dominates(given_points[a], given_points[b]) for a in front for b in front)
    for before, after in itertools.pairwise(rounds):
        for index in after:
            assert any(dominates(given_points[other], given_points[index]) for other in before)


@given(points())
def test_the_order_never_puts_a_point_before_one_that_dominates_it(given_points: list[Costs]) -> None:
    order = nsga_order(given_points)

    assert sorted(order) == list(range(len(given_points)))
    for earlier, later in itertools.combinations(order, 2):
        assert not dominates(given_points[later], given_points[earlier])


def test_the_ends_and_the_empty_stretches_of_a_front_come_first() -> None:
    front: list[Costs] = [(1.0, 9.0), (2.0, 8.0), (3.0, 7.0), (8.0, 2.0), (9.0, 1.0), (3.0, 7.0)]

    distances = crowding(front)

    assert distances[0] == distances[4] == math.inf
    assert distances[2] > distances[1] > 0
    assert distances[5] == 0  # equal to an earlier one: it adds no place
    assert nsga_order(front)[:2] == [0, 4]
    assert nsga_order(front)[-1] == 5


def by_inclusion(given_points: list[Costs], reference: Costs) -> float:
    """The union of boxes by inclusion and exclusion: the obvious reference, exponential in the points."""
    total = 0.0
    for count in range(1, len(given_points) + 1):
        for some in itertools.combinations(given_points, count):
            sides = [
                max(0.0, 1 - max(cost / limit for cost in axis))
                for axis, limit in zip(zip(*some, strict=True), reference, strict=True)
            ]
            total += (-1) ** (count + 1) * math.prod(sides)
    return total


@given(points(3, 6))
def test_hypervolume_is_that_of_the_union_of_boxes(given_points: list[Costs]) -> None:
    reference = (5.0, 4.0, 6.0)

    assert hypervolume(given_points, reference) == pytest.approx(by_inclusion(given_points, reference), abs=1e-9)


@given(points(2), st.tuples(st.integers(1, 6).map(float), st.integers(1, 6).map(float)))
def test_one_more_point_takes_no_volume_away(given_points: list[Costs], point: Costs) -> None:
    reference = (5.0, 5.0)
    before, after = hypervolume(given_points, reference), hypervolume([*given_points, point], reference)

    assert before <= after + 1e-12
    assert 0 <= after <= 1
    inside = all(cost < limit for cost, limit in zip(point, reference, strict=True))
    if not inside or any(other == point or dominates(other, point) for other in given_points):
        assert after == pytest.approx(before)
    else:
        assert after > before


def test_hypervolume_refuses_a_reference_that_spans_no_box() -> None:
    with pytest.raises(ValueError, match="reference must be positive"):
        hypervolume([], (1.0, 0.0))


@given(points(2, 8).filter(bool), st.integers(0, 1000))
def test_the_best_under_any_weights_is_never_dominated(given_points: list[Costs], seed: int) -> None:
    scores = scalarised(given_points, random.Random(seed))

    best = given_points[max(range(len(scores)), key=lambda index: scores[index])]
    assert not any(dominates(other, best) for other in given_points)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_cost_is_less_for_what_is_better_and_goes_back_to_its_value(name: str) -> None:
    objective = OBJECTIVES[name]
    low, high = 0.25, 0.5
    worse, better = (low, high) if objective.higher else (high, low)

    assert objective.cost(better) < objective.cost(worse)
    assert objective.value(objective.cost(low)) == pytest.approx(low)


def test_objectives_are_read_from_text_and_impossible_ones_refused() -> None:
    assert [objective.name for objective in parse_objectives("loss, parameters")] == ["loss", "parameters"]
    assert parse_objectives("") == ()
    for text in ("loss", "parameters,loss", "loss,loss", "loss,speed,memory,state,flops"):
        with pytest.raises(ValueError, match="loss and one to 3 others"):
            parse_objectives(text)
    with pytest.raises(ValueError, match="'latency' is unknown"):
        parse_objectives("loss,latency")


def test_a_candidate_with_a_missing_objective_has_no_costs() -> None:
    objectives = parse_objectives("loss,speed")

    assert costs_of(objectives, {"loss": 2.0, "speed": 4.0}) == (2.0, 0.25)
    assert costs_of(objectives, {"loss": 2.0, "speed": None}) is None
    assert costs_of(objectives, {"loss": 2.0, "speed": 0.0}) is None
    assert reference_of([(2.0, 0.25), (1.0, 0.5)]) == (2.0, 0.5)
    assert reference_of([]) is None


def entry(name: str, fitness: float, costs: Costs | None = None) -> Entry:
    return Entry(name, fitness, int(name[1:]), None, costs)


def test_the_pool_keeps_the_front_and_drops_what_is_dominated_whatever_its_fitness() -> None:
    policy = PoolPolicy(size=3, parents=2, references=1, cold_start=5, batch=1)
    state = PoolState()
    for candidate in (
        entry("c1", 0.9),  # a measure is missing: behind all others
        entry("c2", 0.8, (2.0, 2.0)),
        entry("c3", 0.1, (1.0, 9.0)),
        entry("c4", 0.2, (9.0, 1.0)),
        entry("c5", 0.7, (3.0, 3.0)),
    ):
        state, update = pool.entered(state, candidate, policy)

    assert update is not None
    assert {member.id for member in update.members} == {"c2", "c3", "c4"}
    assert {member.id for member in update.members[:2]} == {"c3", "c4"}  # the ends of the front
    assert state_from_json(state_to_json(RunState(pool=state))).pool == state


def result(name: str, loss: float, costs: Costs | None) -> Result:
    return Result(name, fitness=-loss, loss=loss, parameters=10, flops=10.0, costs=costs)


def test_finalists_are_those_that_the_root_does_not_dominate_front_first() -> None:
    root = result("c1", 2.0, (2.0, 10.0))
    results = (
        result("c2", 1.9, (1.9, 12.0)),
        result("c3", 2.2, (2.2, 12.0)),  # dominated by the root
        result("c4", 2.1, (2.1, 8.0)),
        result("c5", 2.15, (2.15, 9.0)),  # beats the root in one, dominated by c4
        result("c6", 1.0, None),
    )
    policy = PaperPromotion(block=5, top=2, budget=Budget(None, None))

    _, chosen = policy.chosen(Rung(kept=results), root, over=False)

    assert {member.candidate for member in chosen} == {"c2", "c4"}


def test_halving_promotes_by_the_front_and_its_memory_survives_json() -> None:
    policy, rung = SuccessiveHalving(eta=2, budget=Budget(None, None)), Rung()
    root = result("c1", 2.0, (2.0, 10.0))
    for candidate in (result("c2", 1.9, (1.9, 12.0)), result("c3", 2.1, (2.1, 8.0)), result("c4", 2.2, (2.2, 13.0))):
        rung = policy.admitted(rung, candidate)
    rung = policy.admitted(rung, result("c5", 2.3, (2.3, 14.0)))

    _, chosen = policy.chosen(rung, root, over=False)

    assert {member.candidate for member in chosen} == {"c2", "c3"}
    ladder = Ladder(rungs=(rung,), roots=(root,))
    assert state_from_json(state_to_json(RunState(ladder=ladder))).ladder == ladder


def test_the_front_of_a_run_grows_in_volume_and_drops_dominated_members() -> None:
    costs: list[Costs | None] = [(2.0, 10.0), None, (1.0, 9.0), (3.0, 11.0), (0.5, 9.5), (0.5, 8.0)]

    fronts = progress(costs, [0])

    assert fronts is not None
    assert fronts.front == {5}
    assert [index for index, _ in fronts.volumes] == [0, 2, 4, 5]
    assert [volume for _, volume in fronts.volumes] == sorted(volume for _, volume in fronts.volumes)
    assert fronts.volumes[-1][1] == pytest.approx((1 - 0.25) * (1 - 0.8))
    assert progress(costs, [1]) is None
