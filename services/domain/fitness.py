"""Fitness of a candidate against the measured baseline of the same run, stage and data.

Source: arXiv:2507.18074, the section on the fitness function. A measured difference counts within ±10% of the
baseline only: ``σ(6 · clip(Δ / (0.1 · baseline), −1, 1))``; the judge's 1–10 counts as ``(raw − 1) / 9``. Two named
versions exist: ``paper`` is the mean of the terms (0–1) and ``code`` their sum (0–3), which is what the published
archive holds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

LOSS, BENCHMARK, JUDGE = "loss", "benchmark", "judge"
TERMS = frozenset({LOSS, BENCHMARK, JUDGE})
WINDOW = 0.1
"""Share of the baseline beyond which a difference counts no further."""
STEEPNESS = 6.0
"""The constant before the clipped difference: the outermost terms are σ(±6), about 0.0025 and 0.9975."""
JUDGE_LOWEST, JUDGE_HIGHEST = 1.0, 10.0


def _mean(parts: Sequence[float]) -> float:
    return math.fsum(parts) / len(parts)


VERSIONS: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType({"paper": _mean, "code": math.fsum})
"""How each named version joins its terms."""


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
    """The fitness of ``measured`` in a named version, or ``None`` where a switched-on term was not measured.

    ``terms`` is the ablation switch: "without judge" is ``{"loss", "benchmark"}``, and ``paper`` is then their mean.
    Raises ``ValueError`` for an unknown version or term, other conditions than the baseline's, or a baseline of zero.
    """
    join = _version(version)
    _check_terms(terms)
    _check_conditions(measured.conditions, baseline.conditions)
    parts = {term: _part(term, measured, baseline) for term in sorted(terms)}
    known = {term: part for term, part in parts.items() if part is not None}
    if len(known) < len(parts):
        return None
    return Fitness(join(list(known.values())), version, MappingProxyType(known), baseline)


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
    if name not in VERSIONS:
        raise ValueError(f"fitness version {name!r} is not known; choose one of {', '.join(sorted(VERSIONS))}")
    return VERSIONS[name]


def _check_terms(terms: frozenset[str]) -> None:
    if not terms:
        raise ValueError("terms is empty: a fitness needs at least one of loss, benchmark and judge")
    if unknown := terms - TERMS:
        raise ValueError(f"terms holds {', '.join(sorted(unknown))}, which is none of loss, benchmark and judge")


def _check_conditions(candidate: Conditions, baseline: Conditions) -> None:
    for field in ("run", "stage", "data_fingerprint", "precision"):
        ours, theirs = getattr(candidate, field), getattr(baseline, field)
        if ours != theirs:
            raise ValueError(f"{field} differs: candidate {ours!r}, baseline {theirs!r}; measure the baseline there")
