"""Records as texts of a prompt: what was not measured is not said."""

from services.contracts import candidate_pb2 as pb
from services.researcher.model.telling import curve_text, record_text


def test_a_run_without_judge_tells_no_score_of_a_judge() -> None:
    """Zero of ten would be a verdict that nobody gave."""
    record = pb.Candidate(training=pb.Training(loss=1.5))
    record.verdict.fitness.value = 0.5

    assert "Fitness 0.5000." in record_text(record)
    assert "Judge" not in record_text(record)


def test_a_curve_holds_measured_points_only() -> None:
    """A point may hold a held-out loss alone."""
    seed = pb.SeedResult(curve=[pb.CurvePoint(step=1, loss=3.0), pb.CurvePoint(step=2, train_loss=2.5)])

    assert curve_text(seed) == "2: 2.500"


def test_nothing_measured_is_said_so() -> None:
    """An empty text would look like a mistake."""
    assert record_text(pb.Candidate()) == "Nothing was measured yet."
