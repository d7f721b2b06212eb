"""Curve extrapolation: predictions on curves of known shape, and an honest replay."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from services.domain.curves import (
    Curve,
    behind,
    expected_ends,
    features,
    fit,
    forecast,
    replay_quantiles,
    replay_stopping,
)
from services.domain.statistics import spearman


def family(count: int, noise: float, seed: int = 0) -> list[Curve]:
    """Curves floor + height · e^(−rate·share), each with its own numbers: fast starters need not end well."""
    rng = random.Random(seed)
    curves = []
    for _ in range(count):
        floor, rate = 1.5 + rng.gauss(0, 0.05), rng.uniform(3, 6)
        losses = [floor + 3 * math.exp(-rate * step / 1000) + rng.gauss(0, noise) for step in range(10, 1001, 10)]
        curves.append(Curve(tuple(range(10, 1001, 10)), tuple(losses), 1000))
    return curves


def cut(curve: Curve, share: float) -> Curve:
    count = int(len(curve.steps) * share)
    return Curve(curve.steps[:count], curve.losses[:count], curve.total)


def test_unfinished_curves_are_expected_to_end_like_finished_ones() -> None:
    """Here each ends at twice its loss at 30 % of the steps; with too few finished ones there is no prediction."""
    curves = [replace(curve, final=2 * curve.level(0.3)) for curve in family(9, 0.0)]
    started = cut(curves[0], 0.3)

    *ends, expected = expected_ends([*curves[1:], started])

    assert ends == [curve.final for curve in curves[1:]]
    assert expected == pytest.approx(curves[0].final, abs=1e-3)
    assert expected_ends([*curves[2:], started])[-1] is None


def test_regression_orders_unfinished_curves_better_than_their_loss() -> None:
    """At 30% of the steps, on curves that it has not seen."""
    model = fit(family(40, 0.01), 0.3)
    fresh = family(40, 0.01, seed=1)
    ends = [curve.level(1.0) for curve in fresh]

    assert model is not None
    predicted = spearman([model.predict(cut(curve, 0.3)) for curve in fresh], ends).rho
    assert predicted > 0.6
    assert predicted > spearman([curve.level(0.3) for curve in fresh], ends).rho + 0.03


def hopeless(finished: list[Curve], unfinished: Curve, margin: float = 1.0, stopped: list[Curve] | None = None) -> bool:
    prediction = forecast(finished, unfinished, 0.5, stopped or [])
    assert prediction is not None
    return prediction.hopeless(margin)


def test_only_clearly_bad_runs_are_detected() -> None:
    """The best of a family is never stopped, its worst is, and a margin protects those between."""
    curves = sorted(family(30, 0.01), key=lambda curve: curve.level(1.0))
    best, worst, rest = cut(curves[0], 0.5), cut(curves[-1], 0.5), curves[1:-1]

    assert not hopeless(rest, best)
    assert hopeless(rest, worst)
    assert not hopeless(rest, worst, margin=1000)


def test_no_prediction_is_made_too_early() -> None:
    """Neither with few finished runs nor before the run has come to the fraction."""
    curves = family(10, 0.01)

    assert forecast(curves[:7], cut(curves[9], 0.5), 0.5) is None
    assert forecast(curves[:9], cut(curves[9], 0.3), 0.5) is None
    assert fit(curves[:7], 0.5) is None


def test_estimates_of_stopped_runs_hold_the_median() -> None:
    """Without them every stop would raise the bar for the next."""
    curves = sorted(family(20, 0.0), key=lambda curve: curve.level(1.0))
    middle = cut(curves[14], 0.5)

    assert hopeless(curves[:14], middle)
    assert not hopeless(curves[:14], middle, stopped=[cut(curves[19], 0.5)] * 20)


def test_the_held_out_loss_is_the_end_where_it_was_measured() -> None:
    """Candidates are compared by it, not by their training loss."""
    scored = Curve((1, 2), (3.0, 2.0), 2, final=2.4)

    assert (scored.ending, Curve((1, 2), (3.0, 2.0), 2).ending) == (2.4, 2.0)
    with pytest.raises(ValueError, match="final"):
        Curve((1, 2), (3.0, 2.0), 2, final=math.nan)


def test_the_regression_is_that_of_a_least_squares_solver() -> None:
    """It is computed from sums that grow with each curve."""
    curves = family(40, 0.02)
    model = fit(curves, 0.4)
    points, ends = np.array([features(curve, 0.4) for curve in curves]), np.array([curve.ending for curve in curves])
    weights, squares, _, _ = np.linalg.lstsq(points - points.mean(axis=0), ends - ends.mean())

    assert model is not None
    assert (*model.centre, model.final) == pytest.approx((*points.mean(axis=0), ends.mean()))
    assert model.weights == pytest.approx(weights, rel=1e-3)  # the ridge is small
    assert model.deviation == pytest.approx(math.sqrt(squares[0] / 37), rel=1e-3)


def test_replay_saves_compute_and_counts_what_it_costs() -> None:
    """On a family where the middle of the curve tells the end, steps are saved and no finalist lost."""
    replay = replay_stopping(family(80, 0.005), 0.4, finalists=10)

    assert 0.1 < replay.saved < 0.35
    assert replay.lost == ()
    assert len(replay.finalists) == 10
    assert replay.saved == pytest.approx(0.6 * len(replay.stopped) / 80)


def test_replay_shows_the_finalists_that_blind_stopping_loses() -> None:
    """If early losses are uninformative, the estimate must not be optimistic."""
    rng = random.Random(2)
    curves = [
        Curve((100, 500, 1000), (rng.gauss(3, 1), rng.gauss(2, 0.5), rng.gauss(1.5, 0.1)), 1000) for _ in range(60)
    ]
    replay = replay_stopping(curves, 0.5, finalists=30, margin=0.0)

    assert len(replay.lost) > 3


def test_a_curve_with_few_points_uses_the_nearest() -> None:
    """Published curves have a point every 500 steps."""
    curve = Curve((500, 1000, 1500, 2000), (4.0, 3.0, 2.5, 2.25), 2000)

    assert curve.level(1.0) == 2.25
    assert curve.level(0.4) == 3.0
    assert replay_stopping([], 0.5).saved == 0


@pytest.mark.parametrize(
    ("steps", "losses", "total", "word"),
    [
        ((), (), 10, "as many"),
        ((1, 1), (2.0, 2.0), 10, "increase"),
        ((1,), (math.nan,), 10, "finite"),
        ((11,), (1.0,), 10, "total"),
    ],
)
def test_impossible_curves_are_refused(
    steps: tuple[int, ...], losses: tuple[float, ...], total: int, word: str
) -> None:
    """A NaN must not become a prediction."""
    with pytest.raises(ValueError, match=word):
        Curve(steps, losses, total)


def test_the_fraction_is_a_share() -> None:
    """Steps instead of a share are a likely mistake."""
    with pytest.raises(ValueError, match="fraction"):
        fit(family(6, 0.0), 500)


def test_quantiles_stop_the_worst_quarter_early_and_half_of_the_rest_later() -> None:
    """The best of a family goes on, its worst ends at a quarter, the lower middle at half; too few stop nobody."""
    curves = sorted(family(40, 0.0), key=lambda curve: curve.level(0.25))
    first = behind(cut(curves[-1], 0.3), curves[:-1])
    by_half = sorted(curves, key=lambda curve: curve.level(0.5))
    later = behind(cut(by_half[25], 0.6), [curve for curve in curves if curve is not by_half[25]])

    assert behind(cut(curves[0], 0.3), curves[1:]) is None
    assert first is not None
    assert first.fraction == 0.25
    assert later is not None
    assert behind(cut(curves[-1], 0.3), curves[:15]) is None
    assert behind(cut(curves[-1], 0.2), curves[:-1]) is None


def test_quantiles_save_a_third_and_keep_the_best() -> None:
    """Over curves whose order is settled by a quarter of the steps."""
    rng = random.Random(0)
    curves = [Curve((25, 50, 100), (3 + level, 2 + level, 1 + level), 100) for level in rng.sample(range(200), 200)]
    replay = replay_quantiles(curves)

    assert 0.25 < replay.saved < 0.45
    assert replay.lost == ()
    assert replay_quantiles([]).saved == 0
