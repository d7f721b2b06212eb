"""The paper's pool policy: ranks, timing, draws, and its stored form."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.pool import Entry, PoolPolicy, PoolState, draw, entered, rank, seeds
from services.domain.run_state import RunState
from services.store.backends.rows import state_from_json, state_to_json

SMALL = PoolPolicy(size=6, parents=2, references=2, cold_start=5, batch=3)
fitnesses = st.lists(st.floats(0, 1), max_size=60)


def fill(values: list[float], policy: PoolPolicy) -> tuple[PoolState, list[int]]:
    state, updated_at = PoolState(), []
    for number, value in enumerate(values):
        state, update = entered(state, Entry(f"c{number}", value, number), policy)
        if update:
            updated_at.append(number + 1)
    return state, updated_at


def test_the_papers_pool_is_first_filled_after_200_and_then_after_every_50() -> None:
    """The timing of Section 3's batched update."""
    state, updated_at = fill([number / 400 for number in range(325)], PoolPolicy())

    assert updated_at == [200, 250, 300]
    assert [entry.id for entry in state.members[:2]] == ["c299", "c298"]
    assert (len(state.members), len(state.pending), state.count) == (50, 25, 325)


def test_without_cold_start_the_first_update_comes_after_one_batch() -> None:
    """0 is a legal cold start."""
    _, updated_at = fill([0.1] * 7, PoolPolicy(size=6, parents=2, references=2, cold_start=0, batch=3))

    assert updated_at == [3, 6]


@given(fitnesses)
def test_members_are_the_best_of_all_that_entered_before_the_last_update(values: list[float]) -> None:
    """The bounded, incremental state equals the plain definition."""
    state, updated_at = fill(values, SMALL)
    counted = updated_at[-1] if updated_at else 0
    plain = rank(Entry(f"c{n}", value, n) for n, value in enumerate(values[:counted]))[: SMALL.size]

    assert state.members == plain
    assert len(state.pending) < max(SMALL.cold_start, SMALL.batch)


def test_ties_go_to_the_earlier_then_to_the_smaller_id() -> None:
    """Replay must rank as the live run did."""
    entries = [Entry("b", 0.5, 2), Entry("a", 0.5, 2), Entry("z", 0.5, 1), Entry("y", 0.6, 9)]

    assert [entry.id for entry in rank(entries)] == ["y", "z", "a", "b"]


def test_a_candidate_is_never_held_twice() -> None:
    """A redelivered result changes neither members nor counts."""
    once, _ = entered(PoolState(), Entry("c0", 0.5, 0), SMALL)
    twice, update = entered(once, Entry("c0", 0.9, 7), SMALL)

    assert update is None
    assert twice == once
    assert [entry.fitness for entry in rank([Entry("c0", 0.5, 0), Entry("c0", 0.9, 7)])] == [0.9]


def test_the_full_pool_draws_parent_and_references_from_their_ranks() -> None:
    """Parent from 1–10, references from 11–50, everyone there gets a turn."""
    members = [Entry(f"c{n}", 1 - n / 100, n) for n in range(50)]
    rng = random.Random(1)
    draws = [draw(members, PoolPolicy(), rng) for _ in range(600)]

    assert {draw.parent.sequence for draw in draws} == set(range(10))
    assert {ref.sequence for draw in draws for ref in draw.references} == set(range(10, 50))
    assert all(len({ref.id for ref in draw.references}) == 4 for draw in draws)


@given(st.integers(1, 60), st.integers())
def test_small_pools_return_all_their_members(count: int, seed: int) -> None:
    """Any size works, nobody is drawn twice, and references lie below the parents' ranks where such exist."""
    members = [Entry(f"c{n}", n / 100, n) for n in range(count)]
    drawn = draw(members, PoolPolicy(), random.Random(seed))
    ids = [drawn.parent.id, *(ref.id for ref in drawn.references)]

    assert len(set(ids)) == len(ids)
    assert len(drawn.references) == min(4, count - 10 if count > 10 else count - 1)
    assert drawn.parent in rank(members)[:10]


def test_a_parent_chosen_elsewhere_is_no_reference_of_itself() -> None:
    """Other strategies may pick their parent from the references' ranks."""
    members = [Entry(f"c{n}", 1 - n / 10, n) for n in range(4)]
    policy = PoolPolicy(size=4, parents=1, references=3, cold_start=1, batch=1)

    assert [ref.id for ref in draw(members, policy, random.Random(0), members[2]).references] == ["c1", "c3"]


def test_drawing_from_an_empty_pool_is_refused() -> None:
    """There is no parent to draw."""
    with pytest.raises(ValueError, match="empty"):
        draw([], PoolPolicy(), random.Random(0))


def test_the_cold_start_draws_from_everything_entered() -> None:
    """Exploration starts at the first scored baseline, and from the members once there are any."""
    waiting, _ = fill([0.1, 0.3, 0.2], SMALL)
    filled, _ = fill([0.1, 0.3, 0.2, 0.5, 0.4, 0.9], SMALL)

    assert [entry.id for entry in seeds(waiting)] == ["c1", "c2", "c0"]
    assert [entry.id for entry in seeds(filled)] == ["c3", "c4", "c1", "c2", "c0"]


@given(fitnesses)
def test_the_stored_form_reads_back_exactly(values: list[float]) -> None:
    """Both archives keep the pool as JSON."""
    state, _ = fill(values, SMALL)

    assert state_from_json(state_to_json(RunState(pool=state))).pool == state


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"members": "c1"}, "members"),
        ({"count": "3"}, "count"),
        ({"pending": [{"id": 3, "fitness": 1.0, "sequence": 1}]}, "id"),
        ({"pending": [{"id": "a", "fitness": None, "sequence": 1}]}, "fitness"),
    ],
)
def test_a_broken_stored_form_is_refused_by_field(broken: dict[str, object], field: str) -> None:
    """A partially read pool would silently change the selection."""
    with pytest.raises(ValueError, match=field):
        state_from_json(json.dumps({"pool": {**json.loads(state_to_json(RunState()))["pool"], **broken}}))


@pytest.mark.parametrize(
    ("numbers", "field"),
    [({"size": 0}, "size"), ({"parents": 51}, "parents"), ({"references": -1}, "references"), ({"batch": 0}, "batch")],
)
def test_impossible_policies_are_refused_by_field(numbers: dict[str, int], field: str) -> None:
    """A bad setting stops the start with a sentence."""
    with pytest.raises(ValueError, match=field):
        PoolPolicy(**numbers)


def test_an_entry_without_a_number_is_refused() -> None:
    """NaN has no rank."""
    with pytest.raises(ValueError, match="fitness"):
        Entry("a", float("nan"), 1)
