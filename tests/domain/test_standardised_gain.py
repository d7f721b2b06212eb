"""The default fitness keeps order among good candidates: linear in what was measured, weighted by what repeats."""

import math
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.ranking import rank_recorded
from services.domain.fitness import (
    BENCHMARK,
    LOSS,
    Conditions,
    Measured,
    Replicates,
    Scale,
    fitness,
    reliability,
    scale_of,
    standardised_gain,
)
from services.domain.statistics import Interval, pooled_noise, student_quantile

HERE = Conditions("r1", "tiny", "f00d")
FRESH_SEED_GAINS = [1.6983 - 1.4763, 1.6842 - 1.4831, 1.6766 - 1.4823]
"""A candidate against Gated DeltaNet with three fresh seeds, from a recorded run with a language model."""
BASELINES = {
    "delta_net": (1.8914, 0.340),
    "gla": (1.9034, 0.330),
    "value_skip": (1.7079, 0.357),
    "gdn": (1.6637, 0.342),
}
PROPOSALS = {
    1.4682: (0.622, None), 1.5005: (0.617, 7.7), 1.5137: (0.603, None), 1.5346: (0.602, None), 1.6099: (0.362, 9.0),
    1.6230: (0.352, None), 1.6670: (0.357, None), 1.8579: (0.333, None),
}  # fmt: skip
"""Loss to benchmark and, where it is known, the judge's score: the same run's proposals."""


def recorded_scale() -> Scale:
    """One seed of each baseline; the noise of a gain from the fresh seeds."""
    error = pooled_noise([FRESH_SEED_GAINS]).deviation
    measured = {
        LOSS: Replicates([{1: loss} for loss, _ in BASELINES.values()], [error] * 3),
        BENCHMARK: Replicates([{1: score} for _, score in BASELINES.values()], [0.01] * 3),
    }
    scale = scale_of(measured)
    assert scale is not None
    return scale


def value(scale: Scale, loss: float, benchmark: float | None = None) -> float:
    """The value of these gains over the root of the recorded run."""
    root = BASELINES["delta_net"]
    gains = {LOSS: root[0] - loss, BENCHMARK: None if benchmark is None else benchmark - root[1]}
    gain = standardised_gain(gains, scale, {}, 1)
    assert gain is not None
    return gain.value


def test_the_recorded_run_is_ranked_by_what_was_measured() -> None:
    """The paper's form puts 1.6099 above 1.5005 because the judge liked it better; this one does not."""
    scale = recorded_scale()
    root = Measured(*BASELINES["delta_net"], None, HERE)
    paper = {loss: fitness("paper", Measured(loss, *PROPOSALS[loss], HERE), root) for loss in (1.5005, 1.6099)}
    ranked = sorted(PROPOSALS, key=lambda loss: -value(scale, loss, PROPOSALS[loss][0]))

    assert paper[1.5005] is not None
    assert paper[1.6099] is not None
    assert paper[1.6099].value > paper[1.5005].value
    assert ranked[:4] == [1.4682, 1.5005, 1.5137, 1.5346]
    assert value(scale, 1.6099, 0.362) < value(scale, 1.5346, 0.602) - 5


def test_the_candidates_of_the_recorded_judge_are_ranked_without_inversions(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m bench.ranking --recorded`: no better measured candidate is below a worse one by opinion."""
    rank_recorded(Path("examples/recorded-run/exchanges.jsonl"))
    printed = capsys.readouterr().out

    assert "standardised-gain-1   0 inverted pairs of 45" in printed
    assert "paper                 0 inverted" not in printed
    assert re.search(r"1\.6099 .* 0\.956 \(place  1\)", printed)


@given(st.floats(0.1, 3.0), st.floats(1e-6, 1.0), st.floats(0.0, 1.0))
def test_a_lower_loss_at_the_same_benchmark_always_ranks_higher(loss: float, less: float, benchmark: float) -> None:
    """Without bound: nothing saturates."""
    scale = recorded_scale()

    assert value(scale, loss - less * loss, benchmark) > value(scale, loss, benchmark)


def test_equal_steps_count_equally_far_from_the_root() -> None:
    """Order among the best needs the same resolution as among the worst."""
    scale = recorded_scale()
    near = value(scale, 1.80, 0.34) - value(scale, 1.81, 0.34)
    far = value(scale, 0.50, 0.34) - value(scale, 0.51, 0.34)

    assert far == pytest.approx(near)


def test_a_benchmark_that_does_not_repeat_does_not_select() -> None:
    """Its order of the models is another one with the other seed; the loss repeats exactly."""
    losses = [{1: 2.0 - index / 10, 2: 2.1 - index / 10} for index in range(4)]
    accuracies = [{1: 0.3, 2: 0.4}, {1: 0.4, 2: 0.3}, {1: 0.32, 2: 0.38}, {1: 0.38, 2: 0.32}]
    scale = scale_of({LOSS: Replicates(losses, [0.01]), BENCHMARK: Replicates(accuracies)})

    assert scale is not None
    assert scale.terms[BENCHMARK].reliability == 0
    assert dict(scale.weights) == {LOSS: pytest.approx(1.0)}
    assert standardised_gain({LOSS: 0.1, BENCHMARK: None}, scale, {}, 1) is not None


def test_a_reliable_benchmark_counts_and_must_be_measured() -> None:
    """What counts and is absent makes the value absent: it is never read as a number."""
    losses = [{1: 2.0 - index / 10, 2: 2.01 - index / 9} for index in range(4)]
    accuracies = [{1: 0.3 + index / 10, 2: 0.31 + index / 11} for index in range(4)]
    scale = scale_of({LOSS: Replicates(losses), BENCHMARK: Replicates(accuracies)})

    assert scale is not None
    assert set(scale.weights) == {LOSS, BENCHMARK}
    assert standardised_gain({LOSS: 0.1, BENCHMARK: None}, scale, {}, 1) is None


def test_reliability_is_the_correlation_that_another_seed_would_have() -> None:
    """Simulated models with a known share of true variance."""
    rng = random.Random(3)
    true = [rng.gauss(0, 2) for _ in range(400)]
    rows = [{seed: value + seed + rng.gauss(0, 1) for seed in (1, 2, 3)} for value in true]

    assert reliability(rows) == pytest.approx(4 / 5, abs=0.05)
    assert reliability([{1: row[1]} for row in rows], 1.0) == pytest.approx(4 / 5, abs=0.05)
    assert reliability([{1: row[1]} for row in rows]) is None
    assert reliability(rows[:2]) is None


def test_without_any_noise_there_is_no_scale() -> None:
    """One seed and no held-out items say nothing about noise: the value is absent, not infinite."""
    assert scale_of({LOSS: Replicates([{1: 2.0}, {1: 1.9}])}) is None
    assert scale_of({LOSS: Replicates([{1: 2.0}], [0.02])}) is not None


def test_one_root_with_two_seeds_is_enough() -> None:
    """A gain over it scatters √2 times as much as it does."""
    scale = scale_of({LOSS: Replicates([{1: 2.0, 2: 2.2}])})

    assert scale is not None
    assert scale.terms[LOSS].noise == pytest.approx(0.2)
    assert scale.terms[LOSS].reliability is None


def test_the_interval_over_items_is_widened_by_the_noise_of_seeds() -> None:
    """Items alone know nothing of what another seed would have given; several seeds average their noise."""
    scale = scale_of({LOSS: Replicates([{1: 2.0, 2: 2.1}, {1: 1.9, 2: 1.95}, {1: 1.8, 2: 1.9}])})
    items = {LOSS: Interval(0.09, 0.11, 0.95)}
    assert scale is not None
    single, several = (standardised_gain({LOSS: 0.1}, scale, items, seeds) for seeds in (1, 3))

    assert single is not None
    assert several is not None
    assert single.interval is not None
    assert several.interval is not None
    assert single.interval.low < several.interval.low < single.value < several.interval.high < single.interval.high
    (term,) = scale.terms.values()
    assert term.seeds_noise is not None
    over_seeds = student_quantile(0.975, term.freedom) * term.seeds_noise / term.noise
    for interval, seeds in ((single.interval, 1), (several.interval, 3)):
        reach = (interval.high - interval.low) / 2
        assert reach == pytest.approx(math.hypot(0.01 / term.noise, over_seeds / math.sqrt(seeds)))


def test_no_opinion_reorders_measured_candidates() -> None:
    """In simulation the paper's form inverts pairs that are far apart in both measurements; this form never does."""
    rng, scale = random.Random(7), recorded_scale()
    root = Measured(*BASELINES["delta_net"], None, HERE)
    inverted = 0
    for _ in range(300):
        worse = (rng.uniform(1.4, 1.65), rng.uniform(0.36, 0.6))
        better = (worse[0] - rng.uniform(0.01, 0.1), worse[1] + rng.uniform(0.0, 0.05))
        paper = [fitness("paper", Measured(*values, rng.uniform(4, 10), HERE), root) for values in (worse, better)]
        assert paper[0] is not None
        assert paper[1] is not None
        inverted += paper[0].value > paper[1].value

        assert value(scale, *better) > value(scale, *worse)
    assert inverted > 50
