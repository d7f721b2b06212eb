"""The discovery curve and the relation between stages."""

import math
import random

import pytest

from services.domain.scaling import (
    Work,
    discovery_curve,
    discovery_scaling,
    partial_rank_correlation,
    stage_relation,
    strongest_control,
)


def test_the_curve_counts_what_was_confirmed_against_all_compute() -> None:
    """Work that led to nothing is paid for as well."""
    curve = discovery_curve([Work(1.0), Work(2.0, "a"), Work(3.0), Work(1.0, "b"), Work(1.0, "c"), Work(5.0)])

    assert curve.points == (("a", 3.0, 1), ("b", 7.0, 2), ("c", 8.0, 3))
    assert curve.total == 13.0
    assert curve.line is not None
    assert curve.line.slope > 0
    assert curve.line.band(5.0) is not None


def test_too_few_discoveries_give_no_line() -> None:
    """And the curve says so."""
    curve = discovery_curve([Work(1.0, "a"), Work(1.0, "b")])

    assert curve.line is None
    assert "2 of 3" in curve.unfitted
    assert discovery_curve([Work(1.0)]).points == ()
    assert "same moment" in discovery_curve([Work(1.0, "a"), Work(0.0, "b"), Work(0.0, "c")]).unfitted


def test_a_constant_rate_of_discoveries_gives_its_slope() -> None:
    """One discovery in two hours, with chance in between."""
    rng = random.Random(3)
    curve = discovery_curve([Work(rng.expovariate(0.5), f"c{n}") for n in range(400)])

    assert curve.line is not None
    assert curve.line.slope == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("count", "true"), [(12, 0.7), (4, 0.8), (5, 0.95), (7, 0.95)])
def test_the_interval_of_a_correlation_has_its_nominal_coverage(count: int, true: float) -> None:
    """Two stages with a known relation, 400 times; few candidates are often all in order."""
    rng, covered = random.Random(5), 0
    spearman_of_it = 6 / math.pi * math.asin(true / 2)
    for _ in range(400):
        earlier = [rng.gauss(0, 1) for _ in range(count)]
        later = [true * value + math.sqrt(1 - true * true) * rng.gauss(0, 1) for value in earlier]
        related = stage_relation(earlier, later)
        covered += related.interval.low <= spearman_of_it <= related.interval.high
        assert related.interval.low <= related.correlation.rho <= related.interval.high

    assert 0.93 < covered / 400 <= (0.99 if count == 12 else 1.0)


def test_three_candidates_give_no_correlation() -> None:
    """Nor do stages at which all are alike."""
    with pytest.raises(ValueError, match="4 are needed"):
        stage_relation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="never varies"):
        stage_relation([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="negative"):
        discovery_curve([Work(-1.0)])


def test_the_value_of_a_judge_is_its_correlation_beyond_the_loss() -> None:
    """A judge that repeats the loss with noise of its own adds nothing; one who sees something else does."""
    rng = random.Random(2)
    losses = [rng.gauss(0, 1) for _ in range(400)]
    unseen = [rng.gauss(0, 1) for _ in range(400)]
    later = [loss + other for loss, other in zip(losses, unseen, strict=True)]
    echo = [loss + rng.gauss(0, 0.5) for loss in losses]
    insight = [other + rng.gauss(0, 0.5) for other in unseen]

    assert abs(partial_rank_correlation(echo, later, losses) or 0) < 0.12
    assert (partial_rank_correlation(insight, later, losses) or 0) > 0.7
    assert partial_rank_correlation([1.0] * 400, later, losses) is None
    assert partial_rank_correlation(losses, later, losses) is None


def test_the_strongest_control_is_beaten_beyond_the_noise_between_seeds_alone() -> None:
    """Two seeds of each control: one deviation of both, with two degrees of freedom."""
    control = strongest_control({"a": [2.0, 2.02], "b": [1.9, 1.92]})

    assert (control.name, control.noise.freedom) == ("b", 2)
    assert control.loss == pytest.approx(1.91)
    assert control.noise.deviation == pytest.approx(0.01 * math.sqrt(2))
    assert control.reach() == pytest.approx(4.3027 * 0.01 * math.sqrt(2) * math.sqrt(1.5), rel=1e-3)
    assert control.is_beaten(1.91 - control.reach() - 1e-6)
    assert not control.is_beaten(1.91 - control.reach() + 1e-6)
    assert control.reach(seeds=2) < control.reach()
    assert strongest_control({"a": [2.0, 2.02], "b": [1.9]}, "a").loss == pytest.approx(2.01)
    with pytest.raises(ValueError, match="'c'"):
        strongest_control({"a": [2.0, 2.02]}, "c")


def test_successes_at_a_steady_rate_grow_in_proportion_to_compute() -> None:
    """Fifty runs with a success at every tenth training: the exponent is 1 within its interval."""
    rng = random.Random(1)
    scaling = discovery_scaling([[(1.0, rng.random() < 0.1) for _ in range(100)] for _ in range(50)])

    assert scaling.exponent is not None
    assert scaling.exponent_interval is not None
    assert scaling.exponent_interval.low < 1 < scaling.exponent_interval.high
    assert scaling.rate_interval.low < 0.1 < scaling.rate_interval.high
    assert scaling.expected(100.0) == pytest.approx(scaling.successes / 50)


def test_successes_that_become_rarer_have_an_exponent_below_one() -> None:
    """The chance falls with the inverse root of what was spent: the count grows with the root."""
    rng = random.Random(2)
    scaling = discovery_scaling([[(1.0, rng.random() < 0.5 * n**-0.5) for n in range(1, 101)] for _ in range(50)])

    assert scaling.exponent_interval is not None
    assert scaling.exponent_interval.high < 0.7


def test_too_few_successes_have_a_rate_but_no_exponent() -> None:
    """None at all still bounds the rate: the rule of three, at both sides' 95 %."""
    scaling = discovery_scaling([[(2.0, False)] * 50])

    assert (scaling.successes, scaling.exponent, scaling.exponent_interval) == (0, None, None)
    assert scaling.rate_interval.low == 0.0
    assert scaling.rate_interval.high == pytest.approx(3.689 / 100, rel=1e-3)
    with pytest.raises(ValueError, match="0 of 3"):
        scaling.expected(1.0)
    with pytest.raises(ValueError, match="nothing was spent"):
        discovery_scaling([[]])
