"""Fitness of a candidate against the measured baselines of the same run, stage and data: three named versions.

``standardised-gain-1``, the default, is a selection index (Smith 1936; Hazel 1943): the gains over the root in loss and
benchmark, in units of their noise, averaged with their reliabilities as weights. Noise is the standard deviation of a
gain over seeds and held-out items; reliability is the test–retest correlation over seeds (intraclass correlation,
Shrout & Fleiss 1979). Both are measured on the baselines of a run and stage. The index is linear in the measurements
and uses no judgement.

``paper`` and ``code`` reproduce arXiv:2507.18074. A difference counts as ``σ(6 · clip(Δ / (0.1 · baseline), −1, 1))``,
the judge's 1–10 as ``(raw − 1) / 9``. ``paper`` is the mean of the terms (0–1), ``code`` their sum (0–3), which is what
the published archive holds.

A suspiciously low loss is a `Suspicion`, which is investigated; `fault` evaluates the investigation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from services.domain.statistics import Interval, Noise, pooled_noise, student_quantile

LOSS, BENCHMARK, JUDGE = "loss", "benchmark", "judge"
STANDARDISED_GAIN = "standardised-gain-1"
TERMS = frozenset({LOSS, BENCHMARK, JUDGE})
WINDOW = 0.1
"""Share of the baseline beyond which a difference counts no further."""
STEEPNESS = 6.0
"""The factor of the clipped difference: terms lie between σ(−6) and σ(6)."""
JUDGE_LOWEST, JUDGE_HIGHEST = 1.0, 10.0


_SATURATING: Mapping[str, Callable[[Sequence[float]], float]] = {"paper": fmean, "code": math.fsum}
"""How the paper and its code combine the terms."""
VERSIONS = (STANDARDISED_GAIN, *_SATURATING)
DEFAULT = STANDARDISED_GAIN


@dataclass(frozen=True, slots=True)
class Conditions:
    """What two measurements must share before they may be compared."""

    run: str
    stage: str
    data_fingerprint: str
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """Loss (nats), benchmark (more is better) and raw judgement (1–10) of a candidate, or of the run's root, as means
    over seeds; ``None`` is not measured. Raises ``ValueError`` for an impossible value.
    """

    loss: float | None
    benchmark: float | None
    judge: float | None
    conditions: Conditions

    def __post_init__(self) -> None:
        for field in (LOSS, BENCHMARK, JUDGE):
            refuse_impossible(field, getattr(self, field))
        if self.judge is not None and not JUDGE_LOWEST <= self.judge <= JUDGE_HIGHEST:
            raise ValueError(f"judge must be between 1 and 10, not {self.judge!r}; give the raw verdict")


@dataclass(frozen=True, slots=True)
class Fitness:
    """A value and its origin; ``parts`` holds one number in [0, 1] per term."""

    value: float
    version: str
    parts: Mapping[str, float]
    baseline: Measured


def fitness(version: str, measured: Measured, baseline: Measured, terms: frozenset[str] = TERMS) -> Fitness | None:
    """The fitness in a version of the paper from the given terms, or ``None`` if one of them was not measured.

    Raises ``ValueError`` for an unknown version or term, other conditions than the baseline's, or a baseline of zero.
    """
    if version not in _SATURATING:
        raise ValueError(f"fitness version {version!r} is not known; choose one of {', '.join(VERSIONS)}")
    if not terms:
        raise ValueError("terms is empty: a fitness needs at least one of loss, benchmark and judge")
    if unknown := terms - TERMS:
        raise ValueError(f"terms holds {', '.join(sorted(unknown))}, which is none of loss, benchmark and judge")
    check_conditions(measured.conditions, baseline.conditions)
    parts = {term: _part(term, measured, baseline) for term in sorted(terms)}
    measured_parts = {term: part for term, part in parts.items() if part is not None}
    if len(measured_parts) < len(parts):
        return None
    value = _SATURATING[version](list(measured_parts.values()))
    return Fitness(value, version, measured_parts, baseline)


@dataclass(frozen=True, slots=True)
class Replicates:
    """One quantity of all baselines of a stage: ``values`` by seed, the root's first.

    ``item_errors`` are the standard errors, over held-out items, of the others' gains over the root; without another
    model, the root's own error times √2.
    """

    values: Sequence[Mapping[int, float]]
    item_errors: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class TermScale:
    """The noise of one seed's gain in one quantity, and its reliability if known."""

    noise: float
    reliability: float | None
    seeds_noise: float | None  # the seeds' part of the noise; None if no model had two
    freedom: int  # degrees of freedom of the seeds' part


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of one run and stage: the measurable terms, and the weights of those that count."""

    terms: Mapping[str, TermScale]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StandardisedGain:
    """A value in units of noise with its interval."""

    value: float
    interval: Interval | None


def scale_of(replicates: Mapping[str, Replicates]) -> Scale | None:
    """The scale of a stage from its baselines; ``None`` if the noise of the loss cannot be measured.

    The loss always counts, the benchmark only if both reliabilities are known and positive.
    """
    terms = {name: scale for name, measured in replicates.items() if (scale := _term_scale(measured)) is not None}
    if LOSS not in terms:
        return None
    weights = {LOSS: terms[LOSS].reliability or 1.0}
    benchmark = terms[BENCHMARK].reliability if BENCHMARK in terms else None
    if terms[LOSS].reliability and benchmark:
        weights[BENCHMARK] = benchmark
    return Scale(terms, weights)


def standardised_gain(
    gains: Mapping[str, float | None], scale: Scale, intervals: Mapping[str, Interval | None], seeds: int
) -> StandardisedGain | None:
    """The weighted mean of the gains in units of noise, or ``None`` if a weighted term was not measured.

    The ``intervals`` are over held-out items of the mean gain over ``seeds`` and are widened by the noise of seeds. The
    interval of the value adds the ends of all terms, which is conservative; ``None`` if one of them is unknown.
    """
    weighted = {name: gain for name in scale.weights if (gain := gains.get(name)) is not None}
    if len(weighted) < len(scale.weights):
        return None
    total = math.fsum(scale.weights.values())
    factors = {name: weight / total / scale.terms[name].noise for name, weight in scale.weights.items()}
    value = math.fsum(factors[name] * gain for name, gain in weighted.items())
    ends = {name: _widened(items, scale.terms[name], seeds) for name in factors if (items := intervals.get(name))}
    if len(ends) < len(factors):
        return StandardisedGain(value, None)
    low = math.fsum(factors[name] * end.low for name, end in ends.items())
    high = math.fsum(factors[name] * end.high for name, end in ends.items())
    return StandardisedGain(value, Interval(low, high, ends[LOSS].level))


def reliability(values: Sequence[Mapping[int, float]], error: float | None = None) -> float | None:
    """The test–retest correlation over seeds of a quantity, 0 to 1; ``None`` for fewer than three models.

    With two common seeds or more it is the intraclass correlation ICC(3,1). With one, it is the share of the variance
    between models that is not explained by ``error``, the standard error of one model's value.
    """
    if len(values) < 3:
        return None
    seeds = sorted(set(values[0]).intersection(*values[1:]))
    table = [[value[seed] for seed in seeds] for value in values]
    if len(seeds) >= 2:
        means, columns = [fmean(row) for row in table], [fmean(column) for column in zip(*table, strict=True)]
        centre = fmean(means)
        residuals = [
            (value - mean - column + centre) ** 2
            for row, mean in zip(table, means, strict=True)
            for value, column in zip(row, columns, strict=True)
        ]
        within = math.fsum(residuals) / ((len(values) - 1) * (len(seeds) - 1))
        between = len(seeds) * math.fsum((mean - centre) ** 2 for mean in means) / (len(values) - 1)
        spread = between + (len(seeds) - 1) * within
        return max(0.0, (between - within) / spread) if spread > 0 else None
    if error is None or not seeds:
        return None
    variance = pooled_noise([[row[0] for row in table]]).deviation ** 2
    return max(0.0, 1.0 - error**2 / variance) if variance > 0 else None


def refuse_impossible(field: str, value: float | None) -> None:
    """Raise ``ValueError`` naming ``field`` where ``value`` is NaN, infinite or negative; ``None`` passes."""
    if value is None:
        return
    if not math.isfinite(value):
        raise ValueError(f"{field} must be a finite number, not {value!r}; leave it out when it was not measured")
    if value < 0:
        raise ValueError(f"{field} must not be negative, but is {value!r}")


def _term_scale(measured: Replicates) -> TermScale | None:
    """The noise of seeds and items in quadrature; ``None`` if neither is known."""
    root, *others = measured.values
    gains = [[other[seed] - root[seed] for seed in sorted(root.keys() & other.keys())] for other in others]
    repeated = [gain for gain in gains if len(gain) > 1]
    seeds = None
    if repeated:
        seeds = pooled_noise(repeated)
    elif len(root) > 1:  # a gain is the difference of two values with the root's deviation
        alone = pooled_noise([list(root.values())])
        seeds = Noise(alone.deviation * math.sqrt(2), alone.freedom)
    items = math.sqrt(fmean([error**2 for error in measured.item_errors])) if measured.item_errors else None
    noise = math.hypot(seeds.deviation if seeds else 0.0, items or 0.0)
    if not noise > 0:
        return None
    error = items / math.sqrt(2) if items else None
    deviation, freedom = (seeds.deviation, seeds.freedom) if seeds else (None, 0)
    return TermScale(noise, reliability(measured.values, error), deviation, freedom)


def _widened(items: Interval, scale: TermScale, seeds: int) -> Interval:
    """The interval over items, widened in quadrature by the noise of a mean over the seeds, if it is known."""
    if scale.seeds_noise is None:
        return items
    quantile = student_quantile((1 + items.level) / 2, scale.freedom)
    return items.widened(quantile * scale.seeds_noise / math.sqrt(seeds))


def _part(term: str, measured: Measured, baseline: Measured) -> float | None:
    if term == JUDGE:
        return None if measured.judge is None else (measured.judge - JUDGE_LOWEST) / (JUDGE_HIGHEST - JUDGE_LOWEST)
    value, reference = (measured.loss, baseline.loss) if term == LOSS else (measured.benchmark, baseline.benchmark)
    if reference == 0:
        raise ValueError(f"baseline.{term} is zero: a relative difference to it means nothing; switch the term off")
    if value is None or reference is None:
        return None
    gain = reference - value if term == LOSS else value - reference
    clipped = max(-1.0, min(1.0, gain / (WINDOW * reference)))
    return 1.0 / (1.0 + math.exp(-STEEPNESS * clipped))


def check_conditions(candidate: Conditions, baseline: Conditions) -> None:
    """Raise ``ValueError`` naming what the two measurements do not share."""
    for field in ("run", "stage", "data_fingerprint", "precision"):
        ours, theirs = getattr(candidate, field), getattr(baseline, field)
        if ours != theirs:
            advice = "measure the baseline there"
            if field == "data_fingerprint":
                advice = "engineers need the same corpus and the same ASI_ENGINEER_TEXT_SEED"
            raise ValueError(f"{field} differs: candidate {ours!r}, baseline {theirs!r}; {advice}")


THRESHOLD = 0.10
INVESTIGATE, PROBE, PAPER = "investigate", "probe", "paper"
POLICIES = (INVESTIGATE, PROBE, PAPER)
REPEATED_SHARE = 0.5
"""The share of a suspected gain that has to be reproduced."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Whether a loss is suspect, and the evidence."""

    suspected: bool
    loss: float
    reference: float  # the baseline's loss, or the best control's if that is itself below the threshold
    floor: float  # losses below are suspect


@dataclass(frozen=True, slots=True)
class Investigation:
    """The investigation of a suspected loss; gains over the root in nats, ``None`` if not measured.

    ``repeated_gain`` is that of both trained again with another seed on shifted data and scored on other text,
    ``other_text_gain`` that of these two on text from another source.
    """

    failed_probes: tuple[str, ...]
    gain: float
    repeated_gain: float | None = None
    other_text_gain: float | None = None


def leakage_policy(name: str) -> str:
    """The policy of that name, the default for an empty one. Raises ``ValueError`` listing the names there are."""
    if name and name not in POLICIES:
        raise ValueError(f"policy leakage is {name!r}; choose one of {', '.join(POLICIES)}")
    return name or INVESTIGATE


def suspicion(loss: float, baseline_loss: float, controls: Sequence[float]) -> Suspicion:
    """Compare ``loss`` (nats) with the floor set by the controls. Raises ``ValueError`` for an impossible loss."""
    for field, value in (("loss", loss), ("baseline_loss", baseline_loss), *(("controls", loss) for loss in controls)):
        refuse_impossible(field, value)
    if baseline_loss == 0:
        raise ValueError("baseline_loss is zero: nothing can be below it; measure the baseline again")
    best = min(controls, default=baseline_loss)
    reference = best if best < (1 - THRESHOLD) * baseline_loss else baseline_loss
    floor = (1 - THRESHOLD) * reference
    return Suspicion(loss < floor, loss, reference, floor)


def fault(policy: str, investigation: Investigation) -> str | None:
    """Why a suspected candidate is rejected, or ``None`` if the policy accepts it."""
    if investigation.failed_probes:
        return f"the thorough check fails ({investigation.failed_probes[0]})"
    if policy == PAPER:
        return "no probe explains it, but the run's policy leakage=paper rejects every such loss"
    if policy != INVESTIGATE:
        return None
    gain, repeated, elsewhere = investigation.gain, investigation.repeated_gain, investigation.other_text_gain
    if repeated is not None and repeated < REPEATED_SHARE * gain:
        return (
            f"trained again with another seed and shifted data and scored on other text, it gains "
            f"{repeated:.4f} nats over the root instead of {gain:.4f}"
        )
    if elsewhere is not None and elsewhere <= 0:
        return (
            f"on text from another source it gains {elsewhere:.4f} nats over the root, "
            f"but {gain:.4f} on what it was selected by"
        )
    return None
