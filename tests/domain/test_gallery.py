"""The gallery: confirmed discoveries only, with cards whose sentences come from the finding."""

import pytest

from services.domain.discovery import Cost, DiscoveryPolicy, ModelFacts, card, findings, gallery, to_markdown

PARENTS = {"root": None, "a": "root", "b": "a", "c": "a"}
CONTROLS = {
    "deltanet": {seed: 2.0 + seed / 10 for seed in range(5)},
    "gated": {seed: 1.9 + seed / 10 for seed in range(5)},
}


def model(name: str, cost: Cost | None = None) -> ModelFacts:
    return ModelFacts(name, "Because.", "verify", "f00d", 1_000_000, None, cost or Cost())


FACTS = {"a": model("Gater"), "b": model("Mixer", Cost(gpu_hours=1.25)), "c": model("Copy")}


def losses(gain: float) -> dict[int, float]:
    return {seed: 1.9 + seed / 10 - gain + 0.001 * (seed % 2) for seed in range(5)}


FOUND = findings({"a": losses(0.05), "b": losses(0.1), "c": losses(-0.1)}, CONTROLS, 40, DiscoveryPolicy())


def test_only_the_confirmed_enter_greatest_effect_first() -> None:
    """What was refuted is told elsewhere, not here."""
    assert [exhibit.candidate for exhibit in gallery(FOUND, FACTS, PARENTS)] == ["b", "a"]


def test_a_card_holds_claim_evidence_cost_lineage_and_comparison() -> None:
    """Every number in it is the record's; what was not measured is left out."""
    best = gallery(FOUND, FACTS, PARENTS)[0]
    page = to_markdown(best)

    assert "0.0996 nats below gated" in best.claim
    assert best.lineage == ("root", "Gater", "Mixer")
    assert best.cost == ("1,000,000 parameters.", "1.25 GPU-hours.")
    assert "40 trials" in page
    assert "Strongest of 2 controls (deltanet, gated): gated." in page


def test_an_untested_finding_makes_no_claim() -> None:
    """There is no card without numbers."""
    (untested,) = findings({"a": {0: 1.0}}, CONTROLS, 1, DiscoveryPolicy())

    with pytest.raises(ValueError, match="not tested"):
        card(untested, FACTS, PARENTS)
