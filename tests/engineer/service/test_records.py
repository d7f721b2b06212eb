"""Results as events carry them."""

from services.engineer.records import MAX_POINTS, thin_out
from services.engineer.training.result import CurvePoint


def test_a_long_curve_is_thinned_and_keeps_what_was_held_out() -> None:
    """A day of training must fit into an event."""
    curve = [CurvePoint(step, step, 1.0, 2.0 if step == 4_001 else None) for step in range(10_000)]
    points = thin_out(curve)

    assert len(points) <= MAX_POINTS + 2
    assert points[-1].step == 9_999
    assert any(point.loss == 2.0 for point in points)
