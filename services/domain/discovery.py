"""When a candidate is a discovery.

A verified candidate is compared with every control of the run by one-sided t-tests, paired by fresh seeds, on held-out
data that no selection has seen, corrected for all candidates tried. The gain is that over the strongest control, but
all tests have to pass (Berger 1982): which control is the strongest is known from the same noisy losses, and a quiet
one that seems to be it is beaten more easily than one that is as good as the candidate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from services.domain.statistics import (
    Interval,
    PairedTest,
    benjamini_hochberg,
    differences,
    mean,
    paired_test,
    power,
    student_quantile,
)

Losses = Mapping[int, float]
"""The loss (nats) of one model by the seed it was trained with."""


NO_SCATTER = 1e-9
"""Standard errors below this share of the gain are rounding errors."""


class Outcome(StrEnum):
    """What the evidence says of a claim."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class DiscoveryPolicy:
    """The evidence that a run requires.

    ``level`` is the accepted rate of false discoveries. ``seeds`` is the number of fresh seeds that a verdict needs. A
    candidate whose interval lies below ``worthwhile`` (nats) is refuted, however significant its gain is.
    """

    level: float = 0.05
    seeds: int = 5
    worthwhile: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"discovery.level must be between 0 and 1, not {self.level!r}")
        if self.seeds < 2:
            raise ValueError("discoveries need 2 seeds in the last stage or more: raise verify_seeds, or its seeds")
        if self.worthwhile < 0:
            raise ValueError(f"worthwhile must be at least 0, not {self.worthwhile}")


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one candidate; the numbers are ``None`` if there were too few seeds for a test.

    ``effect`` is the loss of ``control``, the strongest of ``controls``, minus the candidate's (nats). ``interval`` is
    two-sided at 95 % over seeds, ``p`` one-sided, ``adjusted_p`` corrected for ``tried`` trials: the candidates of the
    run, or more where much of the level was used by earlier rounds.
    """

    candidate: str
    outcome: Outcome
    reason: str
    control: str | None
    seeds: tuple[int, ...]
    tried: int
    effect: float | None = None
    interval: Interval | None = None
    p: float | None = None
    adjusted_p: float | None = None
    controls: tuple[str, ...] = ()


def findings(
    candidates: Mapping[str, Losses], controls: Mapping[str, Losses], tried: int, policy: DiscoveryPolicy
) -> tuple[Finding, ...]:
    """The verdicts on all verified candidates of a run, in the order given.

    Only seeds that the candidate shares with every control count. The false discovery rate holds for the verdicts of
    one call. Raises ``ValueError`` without controls or when fewer were tried than verified.
    """
    if not controls:
        raise ValueError("controls is empty: a discovery is a comparison; verify the baselines with the same seeds")
    drafts = [_draft(name, losses, controls, tried) for name, losses in candidates.items()]
    tests: dict[str, tuple[PairedTest, PairedTest, str]] = {}  # the strongest control's, the largest p, whose that is
    for draft in drafts:
        if len(draft.seeds) >= policy.seeds:
            losses = {seed: candidates[draft.candidate][seed] for seed in draft.seeds}
            against = {name: paired_test(differences(losses, controls[name])) for name in draft.controls}
            unbeaten = max(against, key=lambda name: against[name].p)
            tests[draft.candidate] = against[str(draft.control)], against[unbeaten], unbeaten
    adjusted = benjamini_hochberg([test.p for test, _, _ in tests.values()], tried)
    of_all = benjamini_hochberg([hardest.p for _, hardest, _ in tests.values()], tried)
    corrected = dict(zip(tests, zip(adjusted, of_all, strict=True), strict=True))
    return tuple(
        _judged(draft, tests[draft.candidate][0], tests[draft.candidate][2], *corrected[draft.candidate], policy)
        if draft.candidate in tests
        else replace(draft, reason=f"{len(draft.seeds)} of {policy.seeds} seeds are there for it and for every control")
        for draft in drafts
    )


def strongest(controls: Mapping[str, Losses], seeds: Sequence[int]) -> str:
    """The control with the lowest mean loss over ``seeds``; ties go to the first by name."""
    return min(sorted(controls), key=lambda name: mean([controls[name][seed] for seed in seeds]))


def detectable(claims: Sequence[Finding], level: float, chance: float = 0.8) -> float | None:
    """The true gain (nats) that these tests would have confirmed with probability ``chance``, as the only real effect.

    The median over the claims, whose noise, seeds and trials may differ; None where nothing was tested.
    """
    gains = sorted(gain for finding in claims if (gain := _detectable(finding, level, chance)) is not None)
    return gains[len(gains) // 2] if gains else None


def _detectable(finding: Finding, level: float, chance: float) -> float | None:
    """The same for one claim, from the deviation of its paired differences; None without one."""
    interval, count = finding.interval, len(finding.seeds)
    if interval is None or count < 2 or interval.high <= interval.low:
        return None
    reach = student_quantile((1 + interval.level) / 2, count - 1)
    deviation = (interval.high - interval.low) / 2 / reach * math.sqrt(count)
    alpha = level / max(1, finding.tried)
    low, high = 0.0, deviation
    while power(high, deviation, count, alpha) < chance:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, deviation, count, alpha) >= chance else (middle, high)
    return high


def prediction(effect: float, interval: Interval, count: int) -> Interval:
    """Where the gain of one further seed falls, at the interval's level, after ``count`` seeds gave the ``effect``."""
    reach = (interval.high - interval.low) / 2 * math.sqrt(count + 1)
    return Interval(effect - reach, effect + reach, interval.level)


def _draft(name: str, losses: Losses, controls: Mapping[str, Losses], tried: int) -> Finding:
    seeds = tuple(sorted(set(losses).intersection(*controls.values())))
    control = strongest(controls, seeds) if seeds else None
    return Finding(name, Outcome.UNDECIDED, "not tested", control, seeds, tried, controls=tuple(sorted(controls)))


def _judged(
    draft: Finding, test: PairedTest, unbeaten: str, adjusted: float, of_all: float, policy: DiscoveryPolicy
) -> Finding:
    """`adjusted` is the corrected p against the strongest control, `of_all` that against the `unbeaten` one."""
    interval = test.interval()
    if interval.high <= policy.worthwhile:
        below = f"the gain over {draft.control} is below {policy.worthwhile:g} nats"
        outcome = Outcome.REFUTED
        reason = below if policy.worthwhile else f"no better than {draft.control} on fresh seeds"
    elif test.standard_error <= abs(test.effect) * NO_SCATTER:
        outcome, reason = Outcome.UNDECIDED, "all seeds have the same gain, which leaves the noise unknown"
    elif of_all <= policy.level and test.effect > 0:
        outcome = Outcome.CONFIRMED
        reason = f"better than {draft.control} at adjusted p {adjusted:.3g} ≤ {policy.level:.3g}"
    elif adjusted <= policy.level and test.effect > 0:
        outcome = Outcome.UNDECIDED
        reason = f"better than {draft.control}, but a gain over {unbeaten} is not shown (adjusted p {of_all:.3g})"
    else:
        outcome, reason = Outcome.UNDECIDED, f"a gain is neither shown (adjusted p {adjusted:.3g}) nor ruled out"
    numbers = replace(draft, effect=test.effect, interval=interval, p=test.p, adjusted_p=adjusted)
    return replace(numbers, outcome=outcome, reason=reason)
