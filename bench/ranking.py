"""Which form of fitness ranks candidates as they truly are? Simulated runs with a known truth.

    python -m bench.ranking [--runs 200]

Each run has four baselines with two seeds and 40 candidates with one. A candidate's true gain in loss is exponential
(a few are far better), its true accuracy follows the gain with scatter of its own; both are measured with noise, and a
judge scores with an opinion that has nothing to do with the truth. Compared are the rank correlation with the truth
over all candidates and over the ten best, and how many pairs that are worse in both measurements are ranked higher.
"""

import argparse
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from services.domain.fitness import (
    BENCHMARK,
    LOSS,
    STANDARDISED_GAIN,
    Baseline,
    Conditions,
    Measured,
    Replicates,
    Scale,
    fitness,
    scale_of,
    standardised_gain,
)
from services.domain.statistics import spearman

HERE = Conditions("simulated", "tiny", "simulated")
ROOT_LOSS, ROOT_ACCURACY = 1.89, 0.34
LOSS_NOISE, ACCURACY_NOISE = 0.01, 0.02
CANDIDATES, BEST = 40, 10


@dataclass(frozen=True)
class Candidate:
    """One simulated candidate: its true gain in loss, and what was measured of it."""

    truth: float
    loss: float
    accuracy: float
    opinion: float


def simulate(rng: random.Random) -> dict[str, tuple[float, float, int]]:
    """By version: correlation over all, over the best, and inverted pairs."""
    baselines = [0.0, *(rng.expovariate(1 / 0.1) for _ in range(3))]
    measured = [_values(gain, rng, 2) for gain in baselines]
    scale = scale_of(
        {
            LOSS: Replicates([dict(enumerate(losses)) for losses, _ in measured]),
            BENCHMARK: Replicates([dict(enumerate(accuracies)) for _, accuracies in measured]),
        }
    )
    assert scale is not None
    root = Baseline(fmean(measured[0][0]), fmean(measured[0][1]), HERE)
    candidates = [_candidate(rng) for _ in range(CANDIDATES)]
    scores = {STANDARDISED_GAIN: [_standardised(one, root, scale) for one in candidates]}
    for version in ("paper", "code"):
        found = [fitness(version, Measured(one.loss, one.accuracy, one.opinion, HERE), root) for one in candidates]
        scores[version] = [one.value for one in found if one is not None]
    return {version: _quality(candidates, values) for version, values in scores.items()}


def _values(gain: float, rng: random.Random, seeds: int) -> tuple[list[float], list[float]]:
    accuracy = ROOT_ACCURACY + 0.6 * gain * rng.uniform(0.5, 1.5)
    losses = [ROOT_LOSS - gain + rng.gauss(0, LOSS_NOISE) for _ in range(seeds)]
    return losses, [max(0.0, accuracy + rng.gauss(0, ACCURACY_NOISE)) for _ in range(seeds)]


def _candidate(rng: random.Random) -> Candidate:
    truth = rng.expovariate(1 / 0.15)
    (loss,), (accuracy,) = _values(truth, rng, 1)
    return Candidate(truth, max(0.05, loss), accuracy, rng.uniform(4, 10))


def _standardised(one: Candidate, root: Baseline, scale: Scale) -> float:
    assert root.loss is not None
    assert root.benchmark is not None
    gains = {LOSS: root.loss - one.loss, BENCHMARK: one.accuracy - root.benchmark}
    found = standardised_gain(gains, scale, {}, 1)
    assert found is not None
    return found.value


def _quality(candidates: Sequence[Candidate], values: Sequence[float]) -> tuple[float, float, int]:
    pairs = sorted(zip(candidates, values, strict=True), key=lambda pair: -pair[0].truth)
    whole = spearman([one.truth for one, _ in pairs], [value for _, value in pairs]).rho
    best = spearman([one.truth for one, _ in pairs[:BEST]], [value for _, value in pairs[:BEST]]).rho
    inverted = sum(
        (a.loss < b.loss and a.accuracy >= b.accuracy and x < y)
        or (b.loss < a.loss and b.accuracy >= a.accuracy and y < x)
        for (a, x), (b, y) in itertools.combinations(pairs, 2)
    )
    return whole, best, inverted


def main() -> None:
    """Print one line per version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = [simulate(random.Random(seed)) for seed in range(parser.parse_args().runs)]
    for version in runs[0]:
        whole, best, inverted = (fmean(run[version][place] for run in runs) for place in range(3))
        print(
            f"{version:20}  rank correlation with the truth {whole:.3f}, among the best {BEST} {best:.3f}; "
            f"{inverted:.1f} inverted pairs of {CANDIDATES * (CANDIDATES - 1) // 2}"
        )


if __name__ == "__main__":
    main()
