"""Promotion between stages: the paper's rule, successive halving, budgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.promotion import (
    Budget,
    PaperPromotion,
    Promotion,
    PromotionPolicy,
    PromotionState,
    Result,
    StageBaseline,
    SuccessiveHalving,
    decide,
    matched_width,
)

STAGES = ("tiny", "explore", "verify")
BASE = {stage: StageBaseline(2.0, 0.3, 1000, 50.0) for stage in STAGES}
FREE = Budget(None, None)


def feed(policy: PromotionPolicy, results: list[Result]) -> tuple[PromotionState, list[Promotion]]:
    state, promotions = PromotionState(), []
    for result in results:
        state, fresh = decide(policy, state, result, BASE)
        promotions += fresh
    return state, promotions


def result(name: str, fitness: float, stage: str = "tiny", parameters: int | None = 1000) -> Result:
    return Result(name, stage, fitness, 1.9, 0.4, parameters, 50.0)


def test_the_paper_promotes_the_best_of_a_block_that_beat_the_baseline_in_both() -> None:
    """Better in loss alone is not enough, and nobody moves before the block is full."""
    policy = PaperPromotion(STAGES, block=4, top=1)
    only_loss = Result("loss", "tiny", 0.9, 1.5, 0.3, 1000, 50.0)
    state, promotions = feed(policy, [only_loss, result("a", 0.5), result("b", 0.6)])
    _, last = decide(policy, state, result("c", 0.4), BASE)

    assert promotions == []
    assert [(one.candidate, one.source, one.target) for one in last] == [("b", "tiny", "explore")]
    assert "1.9000 against 2.0000" in last[0].reason


def test_halving_promotes_as_soon_as_a_place_is_there() -> None:
    """One in three of what is known so far, without waiting for a stage to end."""
    policy = SuccessiveHalving(STAGES, eta=3)
    _, promotions = feed(policy, [result(f"c{n}", n / 10) for n in range(9)])

    assert [one.candidate for one in promotions] == ["c2", "c3", "c4", "c5", "c6", "c7", "c8"]
    assert {one.target for one in promotions} == {"explore"}


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(2, 5))
def test_halving_keeps_its_promises(fitnesses: list[float], eta: int) -> None:
    """Nobody twice, and in the end the best ⌊n/eta⌋ are all promoted."""
    state, promotions = feed(SuccessiveHalving(STAGES, eta), [result(f"c{n}", one) for n, one in enumerate(fitnesses)])
    names = [one.candidate for one in promotions]
    best = sorted(range(len(fitnesses)), key=lambda n: -fitnesses[n])[: len(fitnesses) // eta]

    assert len(set(names)) == len(names)
    assert {f"c{n}" for n in best} <= set(names)
    assert state.promoted == {(name, "tiny") for name in names}


def test_stages_are_separate_rungs_and_the_last_ends_it() -> None:
    """A result at the next stage competes there only."""
    policy = SuccessiveHalving(STAGES, eta=2)
    _, promotions = feed(policy, [result(f"c{n}", n, stage) for stage in STAGES for n in range(2)])

    assert [(one.candidate, one.target) for one in promotions] == [("c1", "explore"), ("c1", "verify")]


@pytest.mark.parametrize(
    ("parameters", "admitted"), [(900, True), (1100, True), (1101, False), (899, False), (None, False)]
)
def test_the_budget_is_ten_percent_and_unmeasured_is_outside(parameters: int | None, admitted: bool) -> None:
    """A gain bought with parameters is no architectural gain; nobody is let through unmeasured."""
    one = result("a", 0.5, parameters=parameters)

    assert Budget().admits(one, BASE["tiny"]) == admitted
    assert FREE.admits(one, BASE["tiny"])


def test_those_outside_the_budget_take_no_place() -> None:
    """Otherwise big models would keep fair ones from going on."""
    policy = SuccessiveHalving(STAGES, eta=2)
    _, promotions = feed(policy, [result("big", 0.9, parameters=5000), result("a", 0.5), result("b", 0.4)])

    assert [one.candidate for one in promotions] == ["a"]


def test_a_redelivered_result_changes_nothing() -> None:
    """Delivery is at least once."""
    policy = SuccessiveHalving(STAGES, eta=2)
    state, _ = feed(policy, [result("a", 0.5)])

    assert decide(policy, state, result("a", 0.9), BASE) == (state, ())


def test_what_cannot_be_decided_is_refused() -> None:
    """Unknown stages, missing baselines, numbers that are none."""
    policy = SuccessiveHalving(STAGES)
    with pytest.raises(ValueError, match="stage 'big'"):
        decide(policy, PromotionState(), result("a", 0.5, "big"), BASE)
    with pytest.raises(ValueError, match="no measured baseline"):
        decide(policy, PromotionState(), result("a", 0.5), {})
    with pytest.raises(ValueError, match="fitness"):
        result("a", float("nan"))
    with pytest.raises(ValueError, match="eta"):
        SuccessiveHalving(eta=1)
    with pytest.raises(ValueError, match="block"):
        PaperPromotion(block=0)
    with pytest.raises(ValueError, match="stages"):
        SuccessiveHalving(("tiny", "tiny"))


def test_width_is_matched_by_the_nearest_parameter_count() -> None:
    """The alternative to refusing: the candidate is made as small as its baseline."""
    assert matched_width({64: 500, 96: 940, 128: 1600}, 1000) == 96
    with pytest.raises(ValueError, match="empty"):
        matched_width({}, 1000)
