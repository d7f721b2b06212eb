"""The rubric's weights and the offline formula: calibrated on the anchors, monotone, absent where unmeasured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.judge.rubric import ANCHOR, MIDDLE, Observation, SubScores, combine, judge_offline

DELTA = Observation(1.813, 0.30, 0.0, 1e6, 5e6)
GATED = Observation(1.622, 0.33, 0.25, 1.05e6, 5.3e6)
numbers = st.floats(0.05, 20)


def raw(observation: Observation, anchor: Observation | None = GATED) -> float:
    judgement = judge_offline(observation, DELTA, anchor)
    assert judgement is not None
    return judgement.raw


def test_the_anchors_get_five_and_seven() -> None:
    """On measured numbers, with room above the second; sub-scores stay as computed."""
    assert raw(DELTA) == pytest.approx(MIDDLE, abs=1e-12)
    assert raw(DELTA, None) == pytest.approx(5, abs=1e-12)
    assert raw(GATED) == pytest.approx(ANCHOR)
    assert ANCHOR < raw(replace(GATED, loss=1.47, benchmark=0.62)) < 10


def test_an_anchor_below_the_root_does_not_change_the_scale() -> None:
    """Otherwise noise would give the highest scores."""
    poor = replace(GATED, loss=2.0, benchmark=0.25, distance=0.0)

    judgement = judge_offline(replace(DELTA, distance=0.1), DELTA, poor)

    assert raw(poor, poor) < 5
    assert judgement is not None
    assert not judgement.scaled
    assert judgement.raw == judgement.weighted


@given(numbers, numbers, st.floats(0, 1), numbers, numbers)
def test_scores_stay_in_range_and_follow_each_measurement(
    loss: float, benchmark: float, distance: float, cost: float, other: float
) -> None:
    """Better in one thing never scores lower."""
    observation = Observation(loss, benchmark, distance, cost * 1e6, None)
    step = 1 + other

    assert 1 <= raw(observation) <= 10
    assert raw(replace(observation, loss=loss / step)) >= raw(observation)
    assert raw(replace(observation, benchmark=benchmark * step)) >= raw(observation)
    further = replace(observation, distance=1 - (1 - distance) / step)
    assert raw(further) >= raw(observation) - 1e-12  # 1 - (1 - x) is rounded
    assert raw(replace(observation, parameters=cost * 1e6 / step)) >= raw(observation)


def test_the_weights_are_the_papers() -> None:
    """30, 25 and 45 percent."""
    assert combine(SubScores(10, 1, 1)) == pytest.approx(1 + 9 * 0.30)
    assert combine(SubScores(1, 10, 1)) == pytest.approx(1 + 9 * 0.25)
    assert combine(SubScores(1, 1, 10)) == pytest.approx(1 + 9 * 0.45)


def test_twice_the_cost_is_the_lowest_and_half_the_highest() -> None:
    """The formula as documented."""
    twice = judge_offline(Observation(1.813, 0.3, 0.0, 2e6), DELTA, None)
    half = judge_offline(Observation(1.813, 0.3, 0.0, 0.5e6), DELTA, None)

    assert twice is not None
    assert half is not None
    assert (twice.scores.complexity, half.scores.complexity) == pytest.approx((1, 10))


@pytest.mark.parametrize(
    "observation", [replace(GATED, loss=None), replace(GATED, distance=None), Observation(1.6, 0.3, 0.2)]
)
def test_without_a_measurement_there_is_no_judgement(observation: Observation) -> None:
    """Absent, not average."""
    assert judge_offline(observation, DELTA, GATED) is None


def test_impossible_numbers_are_refused_by_name() -> None:
    """Also those of a language model's sub-scores."""
    with pytest.raises(ValueError, match="innovation"):
        SubScores(5, 11, 5)
    with pytest.raises(ValueError, match="loss"):
        Observation(float("nan"), None, None)
    with pytest.raises(ValueError, match="distance"):
        Observation(1.0, None, 1.5)
