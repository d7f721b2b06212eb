"""Tests, intervals and corrections against published values and their definitions."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.statistics import (
    Interval,
    benjamini_hochberg,
    bootstrap,
    differences,
    holm,
    linear_fit,
    mean,
    normal_quantile,
    paired_test,
    pooled_noise,
    power,
    spearman,
    student_quantile,
    student_survival,
)


@pytest.mark.parametrize(
    ("share", "freedom", "expected"),
    [(0.95, 1, 6.3138), (0.975, 2, 4.3027), (0.975, 4, 2.7764), (0.99, 10, 2.7638), (0.95, 120, 1.6577)],
)
def test_student_quantiles_agree_with_the_tables(share: float, freedom: int, expected: float) -> None:
    """Printed tables of the t distribution decide."""
    assert student_quantile(share, freedom) == pytest.approx(expected, abs=6e-5)
    assert student_quantile(1 - share, freedom) == pytest.approx(-expected, abs=6e-5)


@pytest.mark.parametrize("t", [-3.0, -0.5, 0.0, 0.7, 2.0, 40.0])
def test_student_tails_agree_with_the_closed_forms(t: float) -> None:
    """One and two degrees of freedom have formulas of their own."""
    assert student_survival(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, rel=1e-9)
    assert student_survival(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), rel=1e-7)
    assert student_survival(t, 1e7) == pytest.approx(NormalDist().cdf(-t), rel=1e-3, abs=1e-12)


def test_the_paired_test_on_a_worked_example() -> None:
    """Differences 1, 2, 3, 4: mean 2.5, deviation 1.2910, t = 3.8730 at 3 degrees of freedom, one-sided p = 0.0152."""
    result = paired_test([1, 2, 3, 4])

    assert (result.effect, result.freedom, result.count) == (2.5, 3, 4)
    assert result.t == pytest.approx(3.87298, abs=1e-5)
    assert result.p == pytest.approx(0.01523, abs=2e-5)
    assert result.interval().low == pytest.approx(0.4457, abs=1e-3)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=8, unique=True))
def test_the_test_is_one_sided(hundred_thousandths: list[int]) -> None:
    """The p of a gain and of the opposite gain add to one, where their scatter is not lost to rounding."""
    gains = [gain / 1e5 for gain in hundred_thousandths]
    there, back = paired_test(gains), paired_test([-gain for gain in gains])

    assert there.p + back.p == pytest.approx(1, abs=1e-9)


def test_differences_without_scatter_are_certain_only_upwards() -> None:
    """Equal programs differ by nothing, and nothing speaks for them."""
    assert paired_test([0.1, 0.1]).p == 0
    assert paired_test([0.0, 0.0]).p == 1
    assert paired_test([-0.1, -0.1]).p == 1


def test_a_pooled_deviation_brings_its_degrees_of_freedom() -> None:
    """Two seeds alone prove little; the scatter known from other pairs helps."""
    known = pooled_noise([[0.0, 2.0], [5.0, 7.0], [1.0]])

    assert known.deviation == pytest.approx(math.sqrt(2))
    assert known.freedom == 2
    assert paired_test([3.0], known).p == pytest.approx(student_survival(3 / math.sqrt(2), 2))


def test_pairs_are_made_by_seed() -> None:
    """Only seeds that both have count, and lower loss is a gain."""
    assert differences({3: 1.0, 1: 2.0, 9: 0.0}, {1: 2.5, 3: 1.25, 4: 0.0}) == [0.5, 0.25]
    with pytest.raises(ValueError, match="seed"):
        differences({1: 1.0}, {2: 1.0})


def test_nothing_has_no_mean_and_one_value_no_deviation() -> None:
    """Absence is not zero."""
    assert mean([1.0, 3.0]) == 2.0
    with pytest.raises(ValueError, match="empty"):
        mean([])
    with pytest.raises(ValueError, match="finite"):
        mean([math.nan, 1.0])
    with pytest.raises(ValueError, match="two values"):
        pooled_noise([[1.0]])


def test_the_normal_quantile() -> None:
    """The textbook number."""
    assert normal_quantile(0.975) == pytest.approx(1.95996, abs=1e-5)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_bootstrap_is_deterministic_and_covers(seeds: int) -> None:
    """With a given rng it repeats, and about 95 of 100 intervals hold the truth, also with few seeds."""
    rng, covered = random.Random(5), 0
    for _ in range(100):
        items = [rng.gauss(0, 1) for _ in range(30)]
        shifts = [rng.gauss(0, 1) for _ in range(seeds)]
        rows = [[0.3 + shift + item + rng.gauss(0, 1) for item in items] for shift in shifts]
        interval = bootstrap(rows, random.Random(1), resamples=100)
        covered += interval.low <= 0.3 <= interval.high

    assert covered >= 90
    assert bootstrap(rows, random.Random(1)) == bootstrap(rows, random.Random(1))


def test_shared_items_are_resampled_together() -> None:
    """Items that favour one model under every seed are a common error, which seeds do not average away."""
    rows = [[float(item % 2) for item in range(20)] for _ in range(10)]
    together = bootstrap(rows, random.Random(0))

    assert together.high - together.low > 4 / math.sqrt(20 * 10)  # twice that of independent draws of deviation 0.5


@pytest.mark.parametrize(("rows", "word"), [([], "empty"), ([[]], "empty"), ([[1.0], [1.0, 2.0]], "different")])
def test_the_bootstrap_refuses_what_it_cannot_pair(rows: list[list[float]], word: str) -> None:
    """One clear sentence instead of a wrong interval."""
    with pytest.raises(ValueError, match=word):
        bootstrap(rows, random.Random(0))


def test_intervals_say_whether_they_cross_zero() -> None:
    """Nothing is called better across it."""
    assert Interval(-0.1, 0.2, 0.95).crosses_zero
    assert not Interval(0.1, 0.2, 0.95).crosses_zero


def test_power_agrees_with_tables_and_simulation() -> None:
    """Effect of half a deviation: 27 pairs for 80% one-sided (Cohen); and a simulation of five pairs."""
    rng = random.Random(3)
    rejected = sum(paired_test([rng.gauss(1, 1) for _ in range(5)]).p < 0.05 for _ in range(2000)) / 2000

    assert power(0.5, 1.0, 26) < 0.8 <= power(0.5, 1.0, 27)
    assert rejected == pytest.approx(power(1, 1, 5), abs=0.03)
    assert power(0, 1, 5) == pytest.approx(0.05, abs=1e-5)


def test_corrections_on_worked_examples() -> None:
    """Benjamini–Hochberg and Holm by hand."""
    ps = [0.01, 0.04, 0.03, 0.005]

    assert benjamini_hochberg(ps, tried=4) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm(ps) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg([0.01], tried=10) == pytest.approx([0.1])
    assert benjamini_hochberg([], tried=0) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrections_only_raise_and_keep_the_order(ps: list[float]) -> None:
    """Holm is never milder than Benjamini–Hochberg, and neither milder than no correction."""
    rates, errors = benjamini_hochberg(ps, tried=len(ps)), holm(ps)

    assert all(
        p <= rate + 1e-12 <= error + 2e-12 <= 1 + 3e-12 for p, rate, error in zip(ps, rates, errors, strict=True)
    )
    assert sorted(range(len(ps)), key=lambda i: (ps[i], i)) == sorted(
        range(len(ps)), key=lambda i: (rates[i], ps[i], i)
    )


def test_corrections_refuse_impossible_counts() -> None:
    """Fewer tried than tested would make every claim look better."""
    with pytest.raises(ValueError, match="tried"):
        benjamini_hochberg([0.1, 0.2], tried=1)
    with pytest.raises(ValueError, match="between"):
        benjamini_hochberg([1.2], tried=1)
    with pytest.raises(ValueError, match="between"):
        holm([1.2])


def test_spearman_with_ties_and_without_order() -> None:
    """Ranks of ties are shared; a constant has no rank order at all."""
    assert spearman([1, 2, 3, 4], [10, 20, 30, 5]).rho == pytest.approx(-0.2)
    assert spearman([1, 2, 2, 4], [1, 2, 2, 9]).rho == pytest.approx(1)
    assert spearman([1, 2], [2, 1]).p is None
    with pytest.raises(ValueError, match="ys"):
        spearman([1, 2, 3], [7, 7, 7])


def test_few_pairs_in_order_are_no_proof() -> None:
    """Of the orders of four, two agree or disagree wholly; a table of exact values gives the fifth pair's."""
    assert spearman([1, 2, 3, 4], [2, 4, 6, 8]).p == pytest.approx(2 / 24)
    assert spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]).p == pytest.approx(2 / 120)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 3, 5, 4]).p == pytest.approx(0.1333, abs=1e-4)
    assert spearman([1, 1, 2, 2], [1, 1, 2, 2]).p == pytest.approx(1 / 3)
    nine = spearman(range(9), [1, 0, 2, 4, 3, 5, 7, 6, 8]).p
    assert nine is not None
    assert nine < 0.001


def test_a_line_with_its_band() -> None:
    """A worked example: y = 1 + 2x with residuals ±0.5; the band is narrowest at the centre."""
    line = linear_fit([0, 1, 2, 3], [1.5, 2.5, 4.5, 7.5])
    centre, edge = line.band(1.5), line.band(3)

    assert (line.slope, line.intercept) == pytest.approx((2.0, 1.0))
    assert centre is not None
    assert edge is not None
    assert centre.high - centre.low < edge.high - edge.low
    assert linear_fit([0, 1], [0, 1]).band(0.5) is None
    with pytest.raises(ValueError, match="xs"):
        linear_fit([1, 1], [0, 1])
