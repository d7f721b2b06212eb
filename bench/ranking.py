"""Compare versions of the fitness by simulated runs with known true gains, and by a recorded run.

    python -m bench.ranking [--runs 200]
    python -m bench.ranking --recorded examples/recorded-run/exchanges.jsonl

Each run has four baselines with two seeds and 40 candidates with one. A candidate's true gain in loss is exponential,
and its true accuracy follows the gain with additional scatter; both are measured with noise, and a judge's scores are
independent of the truth. The output is the rank correlation with the truth over all candidates and over the ten best,
and the number of pairs in which a candidate that is worse in both measurements is ranked higher.

The recorded run is ranked by the losses, accuracies and scores in the requests to its judge and the answers.
"""

import argparse
import itertools
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from services.domain.fitness import (
    BENCHMARK,
    LOSS,
    STANDARDISED_GAIN,
    Conditions,
    Measured,
    Replicates,
    Scale,
    fitness,
    scale_of,
    standardised_gain,
)
from services.domain.statistics import pooled_noise, spearman
from services.judge.rubric import SubScores, combine

HERE = Conditions("simulated", "tiny", "simulated")
ROOT_LOSS, ROOT_ACCURACY = 1.89, 0.34
LOSS_NOISE, ACCURACY_NOISE = 0.01, 0.02
CANDIDATES, BEST = 40, 10
FRESH_SEED_GAINS = (1.6983 - 1.4763, 1.6842 - 1.4831, 1.6766 - 1.4823)
"""One gain of the recorded run, measured again with three fresh seeds, for the noise between seeds."""


@dataclass(frozen=True)
class Candidate:
    """One simulated candidate: its true gain in loss, and its measurements."""

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
    root = Measured(fmean(measured[0][0]), fmean(measured[0][1]), None, HERE)
    candidates = [_candidate(rng) for _ in range(CANDIDATES)]
    return {version: _quality(candidates, values) for version, values in _fitnesses(candidates, root, scale).items()}


def _fitnesses(candidates: Sequence[Candidate], root: Measured, scale: Scale) -> dict[str, list[float]]:
    """The fitness of all candidates by version."""
    values = {STANDARDISED_GAIN: [_standardised(candidate, root, scale) for candidate in candidates]}
    for version in ("paper", "code"):
        fitnesses = [
            fitness(version, Measured(candidate.loss, candidate.accuracy, candidate.opinion, HERE), root)
            for candidate in candidates
        ]
        values[version] = [score.value for score in fitnesses if score is not None]
    return values


def _values(gain: float, rng: random.Random, seeds: int) -> tuple[list[float], list[float]]:
    accuracy = ROOT_ACCURACY + 0.6 * gain * rng.uniform(0.5, 1.5)
    losses = [ROOT_LOSS - gain + rng.gauss(0, LOSS_NOISE) for _ in range(seeds)]
    return losses, [max(0.0, accuracy + rng.gauss(0, ACCURACY_NOISE)) for _ in range(seeds)]


def _candidate(rng: random.Random) -> Candidate:
    truth = rng.expovariate(1 / 0.15)
    (loss,), (accuracy,) = _values(truth, rng, 1)
    return Candidate(truth, max(0.05, loss), accuracy, rng.uniform(4, 10))


def _standardised(candidate: Candidate, root: Measured, scale: Scale) -> float:
    assert root.loss is not None
    assert root.benchmark is not None
    gains = {LOSS: root.loss - candidate.loss, BENCHMARK: candidate.accuracy - root.benchmark}
    gain = standardised_gain(gains, scale, {}, 1)
    assert gain is not None
    return gain.value


def _quality(candidates: Sequence[Candidate], values: Sequence[float]) -> tuple[float, float, int]:
    pairs = sorted(zip(candidates, values, strict=True), key=lambda pair: -pair[0].truth)
    correlation = spearman([candidate.truth for candidate, _ in pairs], [value for _, value in pairs]).rho
    best = spearman([candidate.truth for candidate, _ in pairs[:BEST]], [value for _, value in pairs[:BEST]]).rho
    return correlation, best, inverted_pairs(candidates, values)


def inverted_pairs(candidates: Sequence[Candidate], values: Sequence[float]) -> int:
    """The number of pairs in which the candidate that is better in both measurements is ranked below the other."""
    return sum(
        (a.loss < b.loss and a.accuracy >= b.accuracy and x < y)
        or (b.loss < a.loss and b.accuracy >= a.accuracy and y < x)
        for (a, x), (b, y) in itertools.combinations(zip(candidates, values, strict=True), 2)
    )


@dataclass(frozen=True)
class Judged:
    """One request to a judge: the numbers of the two anchors and the candidate, and the returned score."""

    losses: list[float]
    accuracies: list[float]
    standard_error: float
    opinion: float


def judged(exchanges: Path) -> list[Judged]:
    """All requests to the judge of a recorded run; repeated ones of a candidate are averaged."""
    by_measurements: dict[tuple[float, float], list[Judged]] = {}
    for line in exchanges.read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        text = exchange["request"]["messages"][1]["content"]
        shown = text.split("\nMotivation:")[0]
        losses = [float(value) for value in re.findall(r"^loss ([\d.]+) nats per token", shown, re.MULTILINE)]
        accuracies = [float(value) for value in re.findall(r"^mean accuracy ([\d.]+)", shown, re.MULTILINE)]
        if len(losses) != 3 or len(accuracies) != 3 or not text.startswith("# DeltaNet"):
            continue
        errors = [float(value) for value in re.findall(r"± ([\d.]+)$", shown, re.MULTILINE)][-6:]
        answer = json.loads(exchange["answer"])
        opinion = combine(SubScores(answer["performance"], answer["innovation"], answer["complexity"]))
        judgement = Judged(losses, accuracies, sum(error**2 for error in errors) ** 0.5 / len(errors), opinion)
        by_measurements.setdefault((losses[-1], accuracies[-1]), []).append(judgement)
    return [
        Judged(
            same[0].losses, same[0].accuracies, same[0].standard_error, fmean(judgement.opinion for judgement in same)
        )
        for same in by_measurements.values()
    ]


def rank_recorded(exchanges: Path) -> None:
    """Print the candidates in the default version's order with their places in the paper's, and inverted pairs."""
    judgements = judged(exchanges)
    root = Measured(judgements[0].losses[0], judgements[0].accuracies[0], None, HERE)
    assert root.loss is not None
    assert root.benchmark is not None
    items = fmean(judgement.standard_error for judgement in judgements) * 2**0.5
    # The first three that were judged are the other baselines.
    baselines = [
        (root.loss, root.benchmark),
        *((judgement.losses[-1], judgement.accuracies[-1]) for judgement in judgements[:3]),
    ]
    scale = scale_of(
        {
            LOSS: Replicates([{1: loss} for loss, _ in baselines], [pooled_noise([FRESH_SEED_GAINS]).deviation] * 3),
            BENCHMARK: Replicates([{1: accuracy} for _, accuracy in baselines], [items] * 3),
        }
    )
    assert scale is not None
    candidates = [
        Candidate(0.0, judgement.losses[-1], judgement.accuracies[-1], judgement.opinion) for judgement in judgements
    ]
    values = _fitnesses(candidates, root, scale)
    print(f"{'loss':>8} {'accuracy':>9} {'judge':>6} {STANDARDISED_GAIN:>21} {'paper':>14}")
    ranks = {name: sorted(range(len(scores)), key=lambda at: -scores[at]) for name, scores in values.items()}
    for index in ranks[STANDARDISED_GAIN]:
        candidate = candidates[index]
        columns = [
            f"{values[name][index]:10.3f} (place {ranks[name].index(index) + 1:2})"
            for name in (STANDARDISED_GAIN, "paper")
        ]
        print(f"{candidate.loss:8.4f} {candidate.accuracy:9.3f} {candidate.opinion:6.2f} {'  '.join(columns)}")
    for name, scores in values.items():
        print(
            f"{name:20}  {inverted_pairs(candidates, scores)} inverted pairs of {len(scores) * (len(scores) - 1) // 2}"
        )


def main() -> None:
    """Print one line per version, or a recorded run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--recorded", type=Path, metavar="FILE", help="exchanges of a recorded run, to rank instead")
    arguments = parser.parse_args()
    if arguments.recorded is not None:
        rank_recorded(arguments.recorded)
        return
    runs = [simulate(random.Random(seed)) for seed in range(arguments.runs)]
    for version in runs[0]:
        correlation, best, inverted = (fmean(run[version][index] for run in runs) for index in range(3))
        print(
            f"{version:20}  rank correlation with the truth {correlation:.3f}, among the best {BEST} {best:.3f}; "
            f"{inverted:.1f} inverted pairs of {CANDIDATES * (CANDIDATES - 1) // 2}"
        )


if __name__ == "__main__":
    main()
