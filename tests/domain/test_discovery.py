"""Discoveries on simulated archives: noise is rarely believed, real effects are found as often as computed."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.discovery import (
    DiscoveryPolicy,
    Finding,
    Outcome,
    detectable,
    findings,
    strongest,
)
from services.domain.statistics import power

NOISE = 0.01


def archive(rng: random.Random, gains: list[float], controls: int, seeds: int) -> tuple[Finding, ...]:
    """Verify candidates of known gains (nats) against equal controls; a seed's own difficulty is shared by all."""
    shift = {seed: rng.gauss(0, 0.05) for seed in range(seeds)}

    def train(gain: float) -> dict[int, float]:
        return {seed: 1.6 + shift[seed] - gain + rng.gauss(0, NOISE) for seed in range(seeds)}

    zoo = {f"control{n}": train(0) for n in range(controls)}
    tried = {f"c{n}": train(gain) for n, gain in enumerate(gains)}
    return findings(tried, zoo, len(tried), DiscoveryPolicy(seeds=seeds))


@pytest.mark.parametrize("controls", [1, 3])
def test_pure_noise_is_confirmed_in_fewer_runs_than_the_level(controls: int) -> None:
    """200 simulated runs of 20 candidates that all equal the control, level 5%."""
    rng = random.Random(11)
    runs = [archive(rng, [0.0] * 20, controls, seeds=4) for _ in range(200)]
    false = sum(any(finding.outcome is Outcome.CONFIRMED for finding in run) for run in runs)

    assert false / 200 < 0.05


def test_the_detectable_gain_is_confirmed_as_often_as_computed() -> None:
    """The detectable gain that a run states, on simulated runs with that gain."""
    rng = random.Random(2)
    gains = [gain for _ in range(40) if (gain := detectable(archive(rng, [0.0] * 10, 1, 6), 0.05)) is not None]
    gain = sorted(gains)[len(gains) // 2]
    confirmed = sum(archive(rng, [gain, *[0.0] * 9], 1, 6)[0].outcome is Outcome.CONFIRMED for _ in range(200))

    assert confirmed / 200 == pytest.approx(0.8, abs=0.12)
    assert detectable((), 0.05) is None


def test_the_detectable_gain_is_the_median_of_claims_of_different_rounds() -> None:
    """Two with five noisy seeds, and one with nine quiet ones: each counts with its own seeds."""
    rng = random.Random(4)
    noisy = [{seed: rng.gauss(0, 0.03) for seed in range(5)} for _ in range(2)]
    quiet = {seed: rng.gauss(0, 0.003) for seed in range(9)}
    claims = [
        findings({"c": own}, {"control": dict.fromkeys(own, 0.0)}, 10, DiscoveryPolicy())[0]
        for own in (quiet, *noisy)
    ]  # fmt: skip
    alone = [detectable([claim], 0.05) or 0.0 for claim in claims]

    assert detectable(claims, 0.05) == sorted(alone)[1]
    assert (detectable(claims, 0.01) or 0.0) > sorted(alone)[1]


def test_the_best_of_hundreds_is_not_confirmed_on_fresh_seeds() -> None:
    """200 runs of 100 equal candidates: the luckiest three of one seed are verified, as a run does it."""
    rng, policy, false, lucky = random.Random(8), DiscoveryPolicy(seeds=4), 0, 0.0
    for _ in range(200):
        searched = sorted((1.6 + rng.gauss(0, NOISE), name) for name in range(100))
        lucky += (1.6 - searched[0][0]) / 200
        shift = {seed: rng.gauss(0, 0.05) for seed in range(4)}
        fresh = {
            str(name): {seed: 1.6 + shift[seed] + rng.gauss(0, NOISE) for seed in shift}
            for name in ("root", "gated", *(name for _, name in searched[:3]))
        }
        controls = {name: fresh.pop(name) for name in ("root", "gated")}
        false += any(finding.outcome is Outcome.CONFIRMED for finding in findings(fresh, controls, 100, policy))

    assert lucky > 2 * NOISE
    assert false / 200 < 0.05


def test_a_real_effect_is_confirmed_as_often_as_computed() -> None:
    """One gain of two deviations of a difference, among 20 candidates: the power at level/20."""
    rng, gain, seeds = random.Random(4), 2 * NOISE * 2**0.5, 6
    confirmed = 0
    for _ in range(300):
        confirmed += archive(rng, [gain, *[0.0] * 19], 1, seeds)[0].outcome is Outcome.CONFIRMED
    computed = power(gain, NOISE * 2**0.5, seeds, 0.05 / 20)

    assert 0.3 < computed < 0.7
    assert confirmed / 300 == pytest.approx(computed, abs=0.08)


def shifted(gain: float, scatter: float = 0.001) -> dict[int, float]:
    return {seed: 1.6 + seed / 10 - gain + scatter * (seed % 2) for seed in range(6)}


CONTROLS: Mapping[str, Mapping[int, float]] = {
    "deltanet": shifted(0.0, 0),
    "gated": shifted(0.1, 0),
    "skip": shifted(0.05, 0),
}


def test_the_strongest_control_decides() -> None:
    """Better than DeltaNet alone is not enough."""
    better, between = findings({"a": shifted(0.2), "b": shifted(0.07)}, CONTROLS, 2, DiscoveryPolicy())

    assert (better.outcome, better.control) == (Outcome.CONFIRMED, "gated")
    assert better.effect == pytest.approx(0.0995)
    assert (between.outcome, between.control) == (Outcome.REFUTED, "gated")
    assert strongest(CONTROLS, range(6)) == "gated"


def test_a_control_that_only_seems_the_strongest_does_not_confirm() -> None:
    """The noisy control is as good as the candidate, the quiet one worse: all of them have to be beaten."""
    rng, false, reasons = random.Random(3), 0, set[str]()
    for _ in range(300):
        shift = {seed: rng.gauss(0, 0.02) for seed in range(5)}
        candidate, noisy, quiet = (
            {seed: loss + shift[seed] + rng.gauss(0, noise) for seed in shift}
            for loss, noise in ((1.6, 0.004), (1.6, 0.03), (1.61, 0.005))
        )
        (finding,) = findings({"a": candidate}, {"noisy": noisy, "quiet": quiet}, 1, DiscoveryPolicy())
        false += finding.outcome is Outcome.CONFIRMED
        reasons.add(finding.reason.partition(" (")[0])

    assert false / 300 < 0.05
    assert "better than quiet, but a gain over noisy is not shown" in reasons


def test_all_candidates_tried_count_in_the_correction() -> None:
    """Verifying only the best of a thousand does not make them few."""
    (few,) = findings({"a": shifted(0.103, 0.01)}, CONTROLS, 1, DiscoveryPolicy())
    (many,) = findings({"a": shifted(0.103, 0.01)}, CONTROLS, 1000, DiscoveryPolicy())

    assert few.adjusted_p == few.p
    assert many.adjusted_p == pytest.approx(min(1.0, 1000 * (few.p or 0)))


def test_missing_seeds_leave_a_claim_undecided() -> None:
    """Also when only one control lacks them: it could have been the strongest."""
    lacking = {**CONTROLS, "gated": {0: 1.5}}
    (finding,) = findings({"a": shifted(0.5)}, lacking, 1, DiscoveryPolicy())
    (none,) = findings({"a": {77: 1.0}}, CONTROLS, 1, DiscoveryPolicy())

    assert (finding.outcome, finding.p, finding.effect) == (Outcome.UNDECIDED, None, None)
    assert "1 of 5 seeds" in finding.reason
    assert none.control is None


def test_gains_too_small_to_matter_are_refuted_and_unclear_ones_left_open() -> None:
    """A run may say which gain is worth having."""
    tiny = findings({"a": shifted(0.1015)}, CONTROLS, 50, DiscoveryPolicy(worthwhile=0.01, level=1e-9))
    open_ = findings({"a": shifted(0.12, 0.03)}, CONTROLS, 50, DiscoveryPolicy(worthwhile=0.01))

    assert tiny[0].outcome is Outcome.REFUTED
    assert open_[0].outcome is Outcome.UNDECIDED


def test_a_gain_that_is_not_worthwhile_is_refuted_though_it_is_significant() -> None:
    """The whole interval lies below what the run calls worth having."""
    (finding,) = findings({"a": shifted(0.1025)}, CONTROLS, 1, DiscoveryPolicy(worthwhile=0.01))

    assert finding.adjusted_p is not None
    assert finding.adjusted_p < 0.01
    assert (finding.outcome, finding.reason) == (Outcome.REFUTED, "the gain over gated is below 0.01 nats")


def test_bad_luck_does_not_refute_a_small_gain() -> None:
    """A mean below zero rules nothing out while its interval reaches above it."""
    rng, refuted = random.Random(6), 0
    for _ in range(300):
        (finding,) = archive(rng, [0.005], 1, 5)
        refuted += finding.outcome is Outcome.REFUTED

    assert refuted / 300 <= 0.025


def test_equal_gains_of_all_seeds_are_not_evidence() -> None:
    """Seeds without any effect are one training, also where rounding scatters the differences."""
    for gain, seeds in ((0.2, 6), (0.1 + 1e-16, 5)):
        same = {seed: 1.6 + seed / 10 - gain for seed in range(seeds)}
        (finding,) = findings({"a": same}, {"control": shifted(0, 0)}, 1, DiscoveryPolicy())

        assert (finding.outcome, finding.p is not None) == (Outcome.UNDECIDED, True)
        assert "the noise unknown" in finding.reason


@given(st.integers(), st.floats(0.0, 0.1))
@settings(max_examples=30)
def test_a_confirmed_gain_is_positive_and_significant(seed: int, gain: float) -> None:
    """The outcome never contradicts its numbers."""
    for finding in archive(random.Random(seed), [gain, -gain, 0.0], 2, 3):
        confirmed = finding.outcome is Outcome.CONFIRMED

        assert finding.effect is not None
        assert finding.adjusted_p is not None
        assert not confirmed or (finding.adjusted_p <= 0.05 and finding.effect > 0)


@pytest.mark.parametrize("bad", [{"level": 0}, {"seeds": 1}, {"worthwhile": -1}])
def test_impossible_policies_are_refused(bad: dict[str, Any]) -> None:
    """A verdict without a level or a second seed is none."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        DiscoveryPolicy(**bad)


def test_without_controls_there_is_no_discovery() -> None:
    """A discovery is a comparison."""
    with pytest.raises(ValueError, match="controls"):
        findings({"a": {0: 1.0}}, {}, 1, DiscoveryPolicy())
