"""Promotion between rungs: the paper's rule, successive halving, budgets relative to the baseline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.promotion import (
    MAX_KEPT,
    Budget,
    Limit,
    PaperPromotion,
    PromotionPolicy,
    Result,
    Rung,
    SuccessiveHalving,
    decide,
    matched_width,
    reason,
)

BASE = Result("root", 0.5, 2.0, 0.3, 1000, 50.0)
FREE = Budget(None, None)


def feed(policy: PromotionPolicy, results: list[Result], over: bool = False) -> tuple[Rung, list[str]]:
    rung, promoted = Rung(), list[str]()
    for number, result in enumerate(results, 1):
        rung = Rung((*rung.waiting, result), rung.kept, rung.promoted, rung.count)
        rung, fresh = decide(policy, rung, BASE, over and number == len(results))
        promoted += [member.candidate for member in fresh]
    return rung, promoted


def result(name: str, fitness: float, parameters: int | None = 1000, flops: float = 50.0) -> Result:
    return Result(name, fitness, 1.9, 0.4, parameters, flops)


def test_the_paper_promotes_the_best_of_a_block_that_beat_the_baseline_in_both() -> None:
    """Better in loss alone is not enough, and nobody moves before the block is full."""
    policy = PaperPromotion(block=4, top=1)
    only_loss = Result("loss", 0.9, 1.5, 0.3, 1000, 50.0)
    first = [only_loss, result("a", 0.5), result("b", 0.6)]

    assert feed(policy, first)[1] == []
    assert feed(policy, [*first, result("c", 0.4)])[1] == ["b"]
    assert "1.9000 against 2.0000" in reason(result("b", 0.6), BASE)


def test_the_paper_decides_an_open_block_when_the_search_ends() -> None:
    """A short run never fills a block of fifty."""
    _, promoted = feed(PaperPromotion(block=50, top=2), [result(f"c{n}", n / 10) for n in range(4)], over=True)

    assert promoted == ["c3", "c2"]


def test_a_result_without_a_benchmark_is_not_promoted() -> None:
    """A missing measurement is not zero."""
    unmeasured = Result("a", 0.9, 1.0, None, 1000, 50.0)

    assert feed(PaperPromotion(block=1, top=1), [unmeasured])[1] == []


def test_halving_promotes_as_soon_as_a_place_is_free() -> None:
    """One in three of what is known so far, without waiting for a rung to end."""
    _, promoted = feed(SuccessiveHalving(eta=3), [result(f"c{n}", n / 10) for n in range(9)])

    assert promoted == ["c2", "c3", "c4", "c5", "c6", "c7", "c8"]


def test_a_short_search_promotes_its_best() -> None:
    """Fewer results than eta would otherwise leave the last stage empty."""
    two = [result("a", 0.5), result("b", 0.4)]

    assert feed(SuccessiveHalving(eta=4), two)[1] == []
    assert feed(SuccessiveHalving(eta=4), two, over=True)[1] == ["a"]


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(2, 5))
def test_halving_promotes_the_best_share_of_any_results(fitnesses: list[float], eta: int) -> None:
    """Nobody twice, and in the end the best ⌊n/eta⌋ are all promoted."""
    rung, names = feed(SuccessiveHalving(eta), [result(f"c{n}", value) for n, value in enumerate(fitnesses)])
    best = sorted(range(len(fitnesses)), key=lambda n: -fitnesses[n])[: len(fitnesses) // eta]

    assert len(set(names)) == len(names)
    assert {f"c{n}" for n in best} <= set(names)
    assert rung.promoted == set(names)


def test_what_a_rung_remembers_is_bounded() -> None:
    """A decision costs the same at any length of a run."""
    rung, promoted = feed(SuccessiveHalving(eta=2), [result(f"c{n}", n % 7 + n / 1000) for n in range(500)])

    assert len(rung.kept) == MAX_KEPT
    assert len(rung.promoted) <= MAX_KEPT < len(promoted)
    assert rung.count == 500


def test_no_candidate_is_promoted_before_the_baseline() -> None:
    """At the rungs above, candidates may come in before the root does."""
    rung, fresh = decide(SuccessiveHalving(eta=2), Rung((result("a", 0.5), result("b", 0.6))), None, over=True)
    later, chosen = decide(SuccessiveHalving(eta=2), rung, BASE, over=False)

    assert (len(rung.waiting), fresh) == (2, ())
    assert [member.candidate for member in chosen] == ["b"]
    assert later.waiting == ()


@pytest.mark.parametrize(
    ("parameters", "admitted"), [(900, True), (1100, True), (1101, False), (899, False), (None, False)]
)
def test_the_budget_is_ten_percent_and_excludes_unmeasured_candidates(parameters: int | None, admitted: bool) -> None:
    """A gain from more parameters is not architectural; unmeasured candidates are excluded."""
    candidate = result("a", 0.5, parameters=parameters)

    assert Budget().admits(candidate, BASE) == admitted
    assert FREE.admits(candidate, BASE)


def test_a_budget_may_bound_only_higher_costs() -> None:
    """A program that needs half the operations is not refused for it."""
    thrifty, greedy = result("a", 0.5, flops=25.0), result("b", 0.5, flops=60.0)
    upwards = Budget(flops=Limit(0.1, upwards=True))

    assert not Budget().admits(thrifty, BASE)
    assert upwards.admits(thrifty, BASE)
    assert not upwards.admits(greedy, BASE)


def test_a_candidate_of_another_size_may_be_matched_instead_of_refused() -> None:
    """By the width at which its parameters come nearest to the baseline's."""
    matching, big = Budget(match=True), result("big", 0.9, parameters=1500)

    assert matching.admits(big, BASE)
    assert matching.matched(big, BASE) == 1000
    assert matching.matched(result("fair", 0.9), BASE) is None
    assert Budget().matched(big, BASE) is None
    assert not matching.admits(result("unknown", 0.9, parameters=None), BASE)
    assert matched_width({64: 500, 96: 940, 128: 1600}, 1000) == 96
    with pytest.raises(ValueError, match="empty"):
        matched_width({}, 1000)


def test_candidates_outside_the_budget_take_no_place() -> None:
    """Otherwise large models would take the places of comparable ones."""
    _, promoted = feed(
        SuccessiveHalving(eta=2), [result("big", 0.9, parameters=5000), result("a", 0.5), result("b", 0)]
    )

    assert promoted == ["a"]


def test_impossible_promotion_policies_are_refused() -> None:
    """Impossible numbers, by name."""
    with pytest.raises(ValueError, match="fitness"):
        result("a", float("nan"))
    with pytest.raises(ValueError, match="eta"):
        SuccessiveHalving(eta=1)
    with pytest.raises(ValueError, match="block"):
        PaperPromotion(block=0)
    with pytest.raises(ValueError, match="share"):
        Limit(-0.1)
