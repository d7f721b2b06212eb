"""Fitness of a candidate against the measured baselines of the same run, stage and data: three named versions.

``standardised-gain-1`` is the default. It is a selection index (Smith 1936; Hazel 1943): the gains over the root in
loss and benchmark, each in units of its measured noise, averaged with their reliabilities as weights. Noise is the
standard deviation that another seed and other held-out items of the same kind would give a gain; reliability is the
test–retest correlation over seeds (intraclass correlation, Shrout & Fleiss 1979). Both are measured on the baselines of
a run and stage, so one scale holds for all that is ranked together. It is linear in the measurements: it never
saturates, and no opinion enters it.

``paper`` and ``code`` reproduce arXiv:2507.18074 for comparison. A measured difference counts within ±10% of the
baseline only: ``σ(6 · clip(Δ / (0.1 · baseline), −1, 1))``; the judge's 1–10 counts as ``(raw − 1) / 9``. ``paper`` is
the mean of the terms (0–1), ``code`` their sum (0–3), which is what the published archive holds.

A loss that looks too good to be true is a `Suspicion`: a closer look follows, and `fault` says what its findings mean.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from services.domain.statistics import Interval, Noise, pooled_noise, student_quantile

LOSS, BENCHMARK, JUDGE = "loss", "benchmark", "judge"
STANDARDISED_GAIN = "standardised-gain-1"
TERMS = frozenset({LOSS, BENCHMARK, JUDGE})
WINDOW = 0.1
"""Share of the baseline beyond which a difference counts no further."""
STEEPNESS = 6.0
"""The constant before the clipped difference: the outermost terms are σ(±6), about 0.0025 and 0.9975."""
JUDGE_LOWEST, JUDGE_HIGHEST = 1.0, 10.0


def _mean(parts: Sequence[float]) -> float:
    return math.fsum(parts) / len(parts)


_SATURATING: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType({"paper": _mean, "code": math.fsum})
"""How each version of the paper and its code joins its terms."""
VERSIONS = (STANDARDISED_GAIN, *_SATURATING)
"""All versions by the name that a run's settings use, the default first."""
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
    """What is known of one candidate; ``None`` means not measured, which is never read as a number.

    ``loss`` is in nats, ``benchmark`` is a score where more is better, ``judge`` is the raw 1–10.
    Raises ``ValueError`` for a value that cannot be a measurement (NaN, infinite, negative, a judge outside 1–10).
    """

    loss: float | None
    benchmark: float | None
    judge: float | None
    conditions: Conditions

    def __post_init__(self) -> None:
        refuse_impossible("loss", self.loss)
        refuse_impossible("benchmark", self.benchmark)
        refuse_impossible("judge", self.judge)
        if self.judge is not None and not JUDGE_LOWEST <= self.judge <= JUDGE_HIGHEST:
            raise ValueError(f"judge must be between 1 and 10, not {self.judge!r}; give the raw verdict")


@dataclass(frozen=True, slots=True)
class Baseline:
    """The measured root of the run (DeltaNet unless the run says otherwise): means over its seeds."""

    loss: float | None
    benchmark: float | None
    conditions: Conditions

    def __post_init__(self) -> None:
        refuse_impossible("baseline.loss", self.loss)
        refuse_impossible("baseline.benchmark", self.benchmark)


@dataclass(frozen=True, slots=True)
class Fitness:
    """A value with everything it was made from; ``parts`` holds one number in [0, 1] per switched-on term."""

    value: float
    version: str
    parts: Mapping[str, float]
    baseline: Baseline


def fitness(version: str, measured: Measured, baseline: Baseline, terms: frozenset[str] = TERMS) -> Fitness | None:
    """The fitness of ``measured`` in a version of the paper, or ``None`` where a switched-on term was not measured.

    ``terms`` is the ablation switch: "without judge" is ``{"loss", "benchmark"}``, and ``paper`` is then their mean.
    Raises ``ValueError`` for an unknown version or term, other conditions than the baseline's, or a baseline of zero.
    """
    join = _version(version)
    _check_terms(terms)
    check_conditions(measured.conditions, baseline.conditions)
    parts = {term: _part(term, measured, baseline) for term in sorted(terms)}
    known = {term: part for term, part in parts.items() if part is not None}
    if len(known) < len(parts):
        return None
    return Fitness(join(list(known.values())), version, MappingProxyType(known), baseline)


@dataclass(frozen=True, slots=True)
class Replicates:
    """What the baselines of a stage measured of one quantity, the root first.

    ``values`` holds each model's value by seed. ``item_errors`` holds the standard errors of the other models' gains
    over the root that come from the held-out items alone (blocks of text, benchmark questions), as far as they are
    known; where there is no other model, the root's own error times √2.
    """

    values: Sequence[Mapping[int, float]]
    item_errors: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class TermScale:
    """How finely one quantity is measured: the noise of one seed's gain, and its reliability where it is known."""

    noise: float
    reliability: float | None
    seeds_noise: float | None
    """The part of the noise that comes from seeds; ``None`` where no model had two."""
    freedom: int
    """Degrees of freedom of the seeds' part."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of one run and stage: the measurable terms, and the weights of those that count."""

    terms: Mapping[str, TermScale]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StandardisedGain:
    """A value in units of noise with its interval; ``gains`` holds the raw gain of each term that counts."""

    value: float
    gains: Mapping[str, float]
    interval: Interval | None
    scale: Scale


def scale_of(replicates: Mapping[str, Replicates]) -> Scale | None:
    """The scale of a stage from its baselines; ``None`` where the noise of the loss cannot be measured at all.

    The loss is what every candidate is trained for, so it always counts. The benchmark counts as far as both are
    reliable, and not at all where a reliability is zero or unknown: unknown noise must not select.
    """
    terms = {name: scale for name, one in replicates.items() if (scale := _term_scale(one)) is not None}
    if LOSS not in terms:
        return None
    weights = {LOSS: terms[LOSS].reliability or 1.0}
    benchmark = terms[BENCHMARK].reliability if BENCHMARK in terms else None
    if terms[LOSS].reliability and benchmark:
        weights[BENCHMARK] = benchmark
    return Scale(MappingProxyType(terms), MappingProxyType(weights))


def standardised_gain(
    gains: Mapping[str, float | None], scale: Scale, intervals: Mapping[str, Interval | None], seeds: int
) -> StandardisedGain | None:
    """The weighted mean of the gains in units of noise, or ``None`` where a term that counts was not measured.

    ``gains`` are positive where the candidate is better. ``intervals`` are those of the gains, which with one seed
    speak about held-out items only and are widened here by what another seed would have given. The interval of the
    value takes the ends of all terms together: wider than exact, never narrower; ``None`` where one is not known.
    """
    known = {name: gain for name in scale.weights if (gain := gains.get(name)) is not None}
    if len(known) < len(scale.weights):
        return None
    total = math.fsum(scale.weights.values())
    factors = {name: weight / total / scale.terms[name].noise for name, weight in scale.weights.items()}
    value = math.fsum(factors[name] * gain for name, gain in known.items())
    ends = {name: _widened(one, scale.terms[name], seeds) for name in factors if (one := intervals.get(name))}
    interval = None
    if len(ends) == len(factors):
        low = math.fsum(factors[name] * one.low for name, one in ends.items())
        high = math.fsum(factors[name] * one.high for name, one in ends.items())
        interval = Interval(low, high, next(iter(ends.values())).level)
    return StandardisedGain(value, MappingProxyType(known), interval, scale)


def reliability(values: Sequence[Mapping[int, float]], error: float | None = None) -> float | None:
    """The test–retest correlation over seeds of a quantity: how well one seed's order of models repeats, 0 to 1.

    With two seeds or more in common it is the intraclass correlation for consistency, ICC(3,1). With one, it is the
    share of the variance between models that ``error``, the standard error of one model's value, leaves. ``None`` where
    fewer than three models, or no error, are known.
    """
    if len(values) < 3:
        return None
    seeds = sorted(set(values[0]).intersection(*values[1:]))
    table = [[value[seed] for seed in seeds] for value in values]
    if len(seeds) >= 2:
        means, columns = [_mean(row) for row in table], [_mean(column) for column in zip(*table, strict=True)]
        centre = _mean(means)
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


def difference_term(gain: float, baseline: float) -> float:
    """``σ(6 · clip(gain / (0.1 · baseline), −1, 1))``: 0.5 at no difference, symmetric around it.

    ``gain`` is positive where the candidate is better. Raises ``ValueError`` for a baseline that is not positive.
    """
    if not baseline > 0:
        raise ValueError(f"baseline must be positive to measure a relative difference, not {baseline!r}")
    clipped = max(-1.0, min(1.0, gain / (WINDOW * baseline)))
    return 1.0 / (1.0 + math.exp(-STEEPNESS * clipped))


def judge_term(raw: float) -> float:
    """The judge's raw 1–10 on [0, 1]."""
    return (raw - JUDGE_LOWEST) / (JUDGE_HIGHEST - JUDGE_LOWEST)


def refuse_impossible(field: str, value: float | None) -> None:
    """Raise ``ValueError`` naming ``field`` where ``value`` is NaN, infinite or negative; ``None`` passes."""
    if value is None:
        return
    if not math.isfinite(value):
        raise ValueError(f"{field} must be a finite number, not {value!r}; leave it out when it was not measured")
    if value < 0:
        raise ValueError(f"{field} must not be negative, but is {value!r}")


def _term_scale(measured: Replicates) -> TermScale | None:
    """The noise is that of seeds and of items together, as far as each is known; ``None`` where neither is."""
    root, *others = measured.values
    gains = [[other[seed] - root[seed] for seed in sorted(root.keys() & other.keys())] for other in others]
    repeated = [gain for gain in gains if len(gain) > 1]
    seeds = None
    if repeated:
        seeds = pooled_noise(repeated)
    elif len(root) > 1:  # a gain over the root is a difference of two values that each scatter like it
        alone = pooled_noise([list(root.values())])
        seeds = Noise(alone.deviation * math.sqrt(2), alone.freedom)
    items = math.sqrt(_mean([error**2 for error in measured.item_errors])) if measured.item_errors else None
    noise = math.hypot(seeds.deviation if seeds else 0.0, items or 0.0)
    if not noise > 0:
        return None
    error = items / math.sqrt(2) if items else None
    return TermScale(
        noise,
        reliability(measured.values, error),
        seeds.deviation if seeds else None,
        seeds.freedom if seeds else 0,
    )


def _widened(items: Interval, scale: TermScale, seeds: int) -> Interval:
    """The interval of one seed over items, widened by what other seeds would have given; added in quadrature."""
    if seeds > 1 or scale.seeds_noise is None:
        return items
    reach = student_quantile((1 + items.level) / 2, scale.freedom) * scale.seeds_noise
    middle, half = (items.low + items.high) / 2, math.hypot((items.high - items.low) / 2, reach)
    return Interval(middle - half, middle + half, items.level)


def _part(term: str, measured: Measured, baseline: Baseline) -> float | None:
    if term == JUDGE:
        return None if measured.judge is None else judge_term(measured.judge)
    value, reference = (measured.loss, baseline.loss) if term == LOSS else (measured.benchmark, baseline.benchmark)
    if reference == 0:
        raise ValueError(f"baseline.{term} is zero: a relative difference to it means nothing; switch the term off")
    if value is None or reference is None:
        return None
    return difference_term(reference - value if term == LOSS else value - reference, reference)


def _version(name: str) -> Callable[[Sequence[float]], float]:
    if name not in _SATURATING:
        raise ValueError(f"fitness version {name!r} is not known; choose one of {', '.join(VERSIONS)}")
    return _SATURATING[name]


def _check_terms(terms: frozenset[str]) -> None:
    if not terms:
        raise ValueError("terms is empty: a fitness needs at least one of loss, benchmark and judge")
    if unknown := terms - TERMS:
        raise ValueError(f"terms holds {', '.join(sorted(unknown))}, which is none of loss, benchmark and judge")


def check_conditions(candidate: Conditions, baseline: Conditions) -> None:
    """Raise ``ValueError`` naming what the two measurements do not share."""
    for field in ("run", "stage", "data_fingerprint", "precision"):
        ours, theirs = getattr(candidate, field), getattr(baseline, field)
        if ours != theirs:
            raise ValueError(f"{field} differs: candidate {ours!r}, baseline {theirs!r}; measure the baseline there")


THRESHOLD = 0.10
INVESTIGATE, PROBE, PAPER = "investigate", "probe", "paper"
POLICIES = (INVESTIGATE, PROBE, PAPER)
REPEATED_SHARE = 0.5
"""The share of a suspected gain that has to be there again; a leak through seed or data order leaves about none."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Whether a loss is suspect, with the numbers that say so: the evidence of a rejection."""

    suspected: bool
    loss: float
    reference: float
    """The honest loss compared with: the baseline's, or the best control's where that passes the threshold itself."""
    floor: float
    """A loss below this one is suspect."""


@dataclass(frozen=True, slots=True)
class Investigation:
    """What a closer look at a suspected loss found. A measurement that was not made is ``None``.

    ``gain`` is the root's loss minus the candidate's as they were measured first, ``repeated_gain`` the same of both
    trained again with another seed on shifted data and scored on other text, ``other_text_gain`` that of these two on
    text from another source, all in nats.
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


def suspicion(loss: float, baseline_loss: float, controls: Sequence[float], threshold: float = THRESHOLD) -> Suspicion:
    """Compare ``loss`` (nats) with the floor that the baseline and the run's honest ``controls`` set.

    Raises ``ValueError`` for a loss that is NaN, infinite or negative, a baseline of zero, or a threshold not in (0,
    1).
    """
    refuse_impossible("loss", loss)
    refuse_impossible("baseline_loss", baseline_loss)
    for value in controls:
        refuse_impossible("controls", value)
    if baseline_loss == 0:
        raise ValueError("baseline_loss is zero: nothing can be below it; measure the baseline again")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a share between 0 and 1, not {threshold!r}")
    best = min(controls, default=baseline_loss)
    reference = best if best < (1 - threshold) * baseline_loss else baseline_loss
    floor = (1 - threshold) * reference
    return Suspicion(loss < floor, loss, reference, floor)


def fault(policy: str, investigation: Investigation) -> str | None:
    """Why a suspected candidate is rejected, or ``None`` where the policy keeps it."""
    if investigation.failed_probes:
        return f"the thorough check fails ({investigation.failed_probes[0]})"
    if policy == PAPER:
        return "no probe explains it, but the run's policy leakage=paper keeps no such loss"
    if (
        policy == INVESTIGATE
        and investigation.repeated_gain is not None
        and investigation.repeated_gain < REPEATED_SHARE * investigation.gain
    ):
        return (
            f"trained again with another seed and shifted data and scored on other text, it gains "
            f"{investigation.repeated_gain:.4f} nats over the root instead of {investigation.gain:.4f}"
        )
    if policy == INVESTIGATE and investigation.other_text_gain is not None and investigation.other_text_gain <= 0:
        return (
            f"on text from another source it gains {investigation.other_text_gain:.4f} nats over the root, "
            f"but {investigation.gain:.4f} on what it was selected by"
        )
    return None
