"""Fitness rules: the paper's formula, its second version, absence, and refusals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.fitness import Conditions, Measured, fitness

HERE = Conditions("r1", "tiny", "f00d")
BASELINE = Measured(4.5, 0.36, None, HERE)
losses = st.floats(0.01, 20.0)
scores = st.floats(0.0, 1.0)
verdicts = st.floats(1.0, 10.0)


def value(version: str, loss: float, benchmark: float, judge: float) -> float:
    result = fitness(version, Measured(loss, benchmark, judge, HERE), BASELINE)

    assert result is not None
    return result.value


def test_the_baseline_itself_scores_the_middle_of_both_measured_terms() -> None:
    """No difference is σ(0) = 0.5, and a judge's 5 is 4/9."""
    expected = (0.5 + 0.5 + 4 / 9) / 3

    assert value("paper", 4.5, 0.36, 5.0) == pytest.approx(expected)
    assert value("code", 4.5, 0.36, 5.0) == pytest.approx(3 * expected)


def test_one_percent_better_is_a_tenth_of_the_window() -> None:
    """Guards the constant and the sign: 1% of the baseline is clip 0.1, times 6."""
    result = fitness("paper", Measured(4.455, 0.36, 5.0, HERE), BASELINE)

    assert result is not None
    assert result.parts["loss"] == pytest.approx(1 / (1 + math.exp(-0.6)))


@given(losses, losses, scores, scores, verdicts, verdicts)
def test_fitness_is_monotone(a: float, b: float, c: float, d: float, e: float, f: float) -> None:
    """A candidate at least as good in all three is never scored lower."""
    better = value("paper", min(a, b), max(c, d), max(e, f))
    worse = value("paper", max(a, b), min(c, d), min(e, f))

    assert better >= worse


@given(losses, scores, verdicts)
def test_fitness_is_bounded_and_the_versions_agree(loss: float, benchmark: float, judge: float) -> None:
    """Paper's is in [0, 1]; the code's is its sum form, in [0, 3]."""
    paper, code = value("paper", loss, benchmark, judge), value("code", loss, benchmark, judge)

    assert 0 <= paper <= 1
    assert code == pytest.approx(3 * paper)


@given(st.floats(-4.0, 4.0))
def test_loss_term_is_symmetric_around_the_baseline(gain: float) -> None:
    """As much better and as much worse lie equally far from the middle."""
    up = fitness("paper", Measured(4.5 - gain, 0.36, 5, HERE), BASELINE)
    down = fitness("paper", Measured(4.5 + gain, 0.36, 5, HERE), BASELINE)

    assert up is not None
    assert down is not None
    assert up.parts["loss"] + down.parts["loss"] == pytest.approx(1)


@pytest.mark.parametrize("missing", ["loss", "benchmark", "judge"])
def test_a_missing_part_makes_fitness_absent(missing: str) -> None:
    """A missing judge was once read as average; here the fitness is absent."""
    parts = {"loss": 4.4, "benchmark": 0.4, "judge": 6.0, missing: None}

    assert fitness("paper", Measured(**parts, conditions=HERE), BASELINE) is None


def test_without_judge_is_the_fitness_of_the_remaining_terms() -> None:
    """The ablation needs no verdict, and its mean is over two."""
    result = fitness("paper", Measured(4.5, 0.36, None, HERE), BASELINE, frozenset({"loss", "benchmark"}))

    assert result is not None
    assert result.value == pytest.approx(0.5)
    assert set(result.parts) == {"loss", "benchmark"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
@pytest.mark.parametrize("field", ["loss", "benchmark", "judge"])
def test_impossible_measurements_are_refused_by_name(field: str, bad: float) -> None:
    """NaN once scored as nearly perfect; here it is refused."""
    parts = {"loss": 4.4, "benchmark": 0.4, "judge": 6.0, field: bad}

    with pytest.raises(ValueError, match=field):
        Measured(**parts, conditions=HERE)


@pytest.mark.parametrize("field", ["loss", "benchmark"])
def test_a_zero_baseline_is_refused_only_where_it_is_needed(field: str) -> None:
    """Relative to zero means nothing, but an unused term's baseline does no harm."""
    zero = Measured(**{"loss": 4.5, "benchmark": 0.36, field: 0.0}, judge=None, conditions=HERE)
    measured = Measured(4.4, 0.4, 6.0, HERE)

    with pytest.raises(ValueError, match=f"baseline.{field}"):
        fitness("paper", measured, zero)
    assert fitness("paper", measured, zero, frozenset({"judge"})) is not None


@pytest.mark.parametrize("field", ["run", "stage", "data_fingerprint", "precision"])
def test_another_configuration_than_the_baselines_is_refused(field: str) -> None:
    """A difference to a baseline measured elsewhere is no evidence."""
    there = Conditions(**{"run": "r1", "stage": "tiny", "data_fingerprint": "f00d", field: "other"})

    with pytest.raises(ValueError, match=field):
        fitness("paper", Measured(4.4, 0.4, 6.0, there), BASELINE)


def test_unknown_versions_and_terms_are_refused() -> None:
    """A misspelt name must not silently choose a formula."""
    measured = Measured(4.4, 0.4, 6.0, HERE)

    with pytest.raises(ValueError, match="papr"):
        fitness("papr", measured, BASELINE)
    with pytest.raises(ValueError, match="los"):
        fitness("paper", measured, BASELINE, frozenset({"los"}))
    with pytest.raises(ValueError, match="empty"):
        fitness("paper", measured, BASELINE, frozenset())
