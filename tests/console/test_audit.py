"""Claims of an exported run, trained again."""

from typing import Any

import pytest

from services.chassis.errors import NotPossible
from services.console.commands.audit import claim_sentence, compared, judged, outcome
from services.contracts import candidate_pb2 as pb
from services.domain.discovery import prediction
from services.domain.statistics import Interval


def claim(outcome: str = "confirmed", effect: float = 0.05) -> dict[str, Any]:
    """As `services.store.tools audit --json` gives it: an effect over five seeds."""
    expected = prediction(effect, Interval(effect - 0.02, effect + 0.02, 0.95), 5)
    return {
        "candidate": "c000009", "name": "Suffix", "control_name": "Gated DeltaNet", "outcome": outcome,
        "effect": effect, "interval": {"low": effect - 0.02, "high": effect + 0.02, "level": 0.95}, "tried": 20,
        "seeds": [1001, 1002, 1003, 1004, 1005], "expected": {"low": expected.low, "high": expected.high},
    }  # fmt: skip


def test_one_seed_scatters_more_than_the_mean_of_five() -> None:
    """Half the width grows by the square root of six."""
    interval = prediction(0.05, Interval(0.03, 0.07, 0.95), 5)

    assert (interval.low, interval.high) == pytest.approx((0.05 - 0.02 * 6**0.5, 0.05 + 0.02 * 6**0.5))


@pytest.mark.parametrize(
    ("outcome", "loss", "holds", "words"),
    [
        ("confirmed", 1.90, True, "the claim HOLDS on this machine"),
        ("confirmed", 2.01, False, "the claim is NOT shown on this machine"),
        ("confirmed", 1.96, False, "1 seed(s) give up to 0.0447 by chance: try --seeds 2"),
        ("confirmed", 1.80, True, "outside the [+0.0010, +0.0990]"),
        ("refuted", 1.96, True, "the log's verdict (refuted) HOLDS here"),
        ("refuted", 1.80, False, "the log's verdict (refuted) does NOT hold here"),
    ],
)
def test_a_claim_holds_by_the_gain_of_fresh_seeds(outcome: str, loss: float, holds: bool, words: str) -> None:
    """The control has 2.0; what the record lets one seed expect is said beside it."""
    repeated = judged(claim(outcome), [900_001], [loss], [2.0])

    assert repeated.holds is holds
    assert words in repeated.sentence
    assert repeated.gain == pytest.approx(2.0 - loss)


def test_several_seeds_are_averaged() -> None:
    """One that fails to show the gain is outweighed, and a gain that one may give by chance is shown by two."""
    assert judged(claim(), [900_001, 900_002], [2.01, 1.9], [2.0, 2.0]).holds
    assert judged(claim(), [900_001, 900_002], [1.96, 1.96], [2.0, 2.0]).holds


def test_a_claim_is_shown_with_its_evidence() -> None:
    """The strongest control, the interval, the seeds and how many were tried."""
    assert claim_sentence(claim()) == (
        "confirmed: Suffix (c000009) against Gated DeltaNet, the strongest control: gain +0.0500 nats, 95% interval "
        "[+0.0300, +0.0700] over 5 fresh seeds, corrected for 20 trials"
    )


def test_a_training_that_was_stopped_early_is_compared_where_it_was_stopped() -> None:
    """The second training goes on to the end; its last loss is that of other steps."""
    seed = pb.SeedResult(seed=1, loss=2.9, stopped="By 50% of the steps it fell behind.")
    seed.curve.add(step=14, train_loss=4.0)
    seed.curve.add(step=49, train_loss=3.0)
    curve = [{"step": step, "train_loss": loss} for step, loss in ((14, 4.0), (49, 3.01), (98, 2.6))]

    assert compared(seed, {"loss": 2.6, "curve": curve}) == (
        3.0, 3.01, " at step 49, after which it was stopped early",
    )  # fmt: skip
    assert compared(seed, {"failed": "diverged"}) == (2.9, None, "")
    assert compared(pb.SeedResult(loss=2.5), {"loss": 2.5}) == (2.5, 2.5, "")
    with pytest.raises(NotPossible, match="stopped early"):
        compared(seed, {"loss": 2.6, "curve": curve[2:]})


@pytest.mark.parametrize(
    ("text", "loss", "holds", "words"),
    [
        ("its own", 2.01, True, "the numbers hold: seed 1 gives 2.0100 against 2.0000"),
        ("its own", 2.10, False, "the numbers do NOT hold"),
        ("another", 2.01, False, "the numbers CANNOT be compared, as this machine holds out other text"),
    ],
)
def test_a_record_is_compared_on_its_own_text_only(text: str, loss: float, holds: bool, words: str) -> None:
    """Of an imported run a sound result would be said not to hold, or a false one to hold."""
    record = pb.Candidate(id="c000001")
    record.training.seeds.add(seed=1, loss=2.0).measurements.data_fingerprint = "its own"
    rerun = outcome(record, True, {"loss": loss, "measurements": {"data_fingerprint": text}}, "")

    assert rerun.holds is holds
    assert words in rerun.sentence
