"""A low loss is investigated; the findings decide, by the run's policy."""

import math

import pytest

from services.domain.fitness import INVESTIGATE, PAPER, PROBE, Investigation, fault, leakage_policy, suspicion


def test_a_loss_ten_percent_below_the_baseline_is_suspected() -> None:
    """The paper's rule, with controls that stay above the threshold."""
    assert suspicion(0.899, 1.0, [0.95]).suspected
    assert not suspicion(0.901, 1.0, [0.95]).suspected


def test_honest_controls_move_the_threshold() -> None:
    """DeltaNet with a value skip is 10.3% below DeltaNet at tiny scale and does not leak."""
    result = suspicion(1.546, 1.813, [1.626, 1.622])

    assert not result.suspected
    assert result.reference == pytest.approx(1.622)
    assert suspicion(1.40, 1.813, [1.626, 1.622]).suspected


def test_leakage_refuses_nan() -> None:
    """A NaN loss compares as not below anything, which must not pass as honest."""
    with pytest.raises(ValueError, match="loss"):
        suspicion(math.nan, 1.0, [])
    with pytest.raises(ValueError, match="baseline_loss"):
        suspicion(1.0, 0.0, [])


def test_the_recorded_case_is_kept_by_default() -> None:
    """A loss of 1.4682 was refused in a recorded run; three fresh seeds repeat its gain over the best control."""
    result = suspicion(1.4682, 1.8914, [1.6637, 1.7079, 1.9034])
    repeated = [1.6983 - 1.4763, 1.6842 - 1.4831, 1.6766 - 1.4823]
    findings = [Investigation((), 1.6637 - 1.4682, gain) for gain in repeated]

    assert result.suspected
    assert [fault(INVESTIGATE, finding) for finding in findings] == [None, None, None]
    assert fault(PAPER, findings[0]) is not None


@pytest.mark.parametrize("policy", [INVESTIGATE, PROBE, PAPER])
def test_a_failed_probe_is_evidence_under_every_policy(policy: str) -> None:
    """Whatever the repetition gains."""
    assert "causality" in str(fault(policy, Investigation(("causality: position 7 sees 9",), 0.4, 0.4)))


def test_a_gain_that_does_not_repeat_is_evidence() -> None:
    """Half of it has to be; where nothing could be repeated, the probes decide alone."""
    assert fault(INVESTIGATE, Investigation((), 0.4, 0.19)) is not None
    assert fault(INVESTIGATE, Investigation((), 0.4, 0.21)) is None
    assert fault(INVESTIGATE, Investigation((), 0.4)) is None
    assert fault(PROBE, Investigation((), 0.4, 0.0)) is None


def test_a_gain_on_one_text_only_is_evidence() -> None:
    """A program that holds the text in its own gains nothing on text from another source."""
    assert "another source" in str(fault(INVESTIGATE, Investigation((), 0.4, 0.4, -0.01)))
    assert fault(INVESTIGATE, Investigation((), 0.4, 0.4, 0.1)) is None
    assert fault(PROBE, Investigation((), 0.4, 0.4, -0.01)) is None


def test_an_unknown_policy_is_refused_with_the_known_names() -> None:
    """A misspelt name must not silently choose a rule."""
    assert leakage_policy("") == INVESTIGATE
    with pytest.raises(ValueError, match="investigate, probe, paper"):
        leakage_policy("prob")
