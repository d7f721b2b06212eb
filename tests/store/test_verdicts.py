"""The verdicts of an exported log have to follow from the losses that it holds."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from services.contracts import candidate_pb2, events_pb2
from tests.store.exported import PUBLISHED, Export


def unknown_control(verdict: candidate_pb2.Discovery) -> None:
    verdict.control = "c999999"


def no_seeds(verdict: candidate_pb2.Discovery) -> None:
    del verdict.seeds[:]


def no_number(verdict: candidate_pb2.Discovery) -> None:
    verdict.effect = math.nan


def none_tried(verdict: candidate_pb2.Discovery) -> None:
    verdict.tried = 0


def untested(verdict: candidate_pb2.Discovery) -> None:
    for field in ("effect", "interval", "p_value", "adjusted_p_value", "seeds"):
        verdict.ClearField(field)


def two_seeds(verdict: candidate_pb2.Discovery) -> None:
    del verdict.seeds[2:]


@pytest.mark.parametrize("change", [unknown_control, no_seeds, no_number, none_tried, untested, two_seeds])
async def test_an_impossible_verdict_is_a_contradiction(
    tmp_path: Path, change: Callable[[candidate_pb2.Discovery], None]
) -> None:
    """The statistics refuse it; the audit reports that."""
    export = Export.published(tmp_path, PUBLISHED[1])
    export.change(export.of("confirmed"), lambda event: change(event.discovery_confirmed.discovery))
    candidate = export.lines[export.of("confirmed")]["event"]["candidate"]
    audit = await export.audited()

    assert any(" cannot be recomputed from the log: " in problem for problem in audit.problems)
    assert candidate not in {claim.candidate for claim in audit.claims}


async def test_a_loss_changed_everywhere_in_the_published_run_contradicts_its_claim(tmp_path: Path) -> None:
    """In the bytes, in what people read and in the manifest: a better loss of a finalist's second training."""
    export = Export.published(tmp_path)
    before = await export.audited()
    claim = before.claims[0]
    index = next(
        index
        for index, line in enumerate(export.lines)
        if line["subject"].endswith("candidate.verified") and line["event"]["candidate"] == claim.candidate
    )

    def improve(event: events_pb2.Event) -> None:
        event.candidate_verified.training.seeds[0].loss -= 0.05

    event = export.change(index, improve)
    export.forget_hash(index)

    problems = (await export.audited()).problems

    assert before.problems == ()
    assert any(f"the claim on {claim.candidate}: effect is" in problem for problem in problems)
    assert any("digest" in problem for problem in problems)
    assert event.startswith(f"{export.manifest['run']}.{claim.candidate}.verified")


def without_the_strongest(verdict: candidate_pb2.Discovery) -> None:
    verdict.controls.remove(verdict.control)


def with_few_trials(verdict: candidate_pb2.Discovery) -> None:
    verdict.tried = 2


def with_chosen_seeds(verdict: candidate_pb2.Discovery) -> None:
    del verdict.seeds[-1]


def with_a_narrower_interval(verdict: candidate_pb2.Discovery) -> None:
    verdict.interval.low += 0.001


def with_another_level(verdict: candidate_pb2.Discovery) -> None:
    verdict.interval.level = 0.99


def with_two_opinions(verdict: candidate_pb2.Discovery) -> None:
    verdict.confirmed = False


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_the_strongest, "omits c000002, trained again with the same seeds"),
        (with_few_trials, "is corrected for 2 candidates, but 10 were proposed before it"),
        (with_chosen_seeds, "omits the seeds 1005 of these trainings"),
        (with_a_narrower_interval, "interval.low is recorded as"),
        (with_another_level, "interval.level is recorded as 0.99"),
        (with_two_opinions, "is confirmed in some of its fields"),
    ],
)
async def test_a_verdict_has_to_use_all_evidence_of_its_round(
    tmp_path: Path, change: Callable[[candidate_pb2.Discovery], None], named: str
) -> None:
    """A verdict that follows from a part of the losses says more than all of them do."""
    export = Export.published(tmp_path, PUBLISHED[1])
    export.change(export.of("confirmed"), lambda event: change(event.discovery_confirmed.discovery))
    problems = (await export.audited()).problems

    assert any(problem.startswith("the claim on ") and named in problem for problem in problems)


async def test_a_claim_by_the_rule_of_earlier_versions_is_explained(tmp_path: Path) -> None:
    """They confirmed a gain over the strongest control, also where one over a noisy control was not shown."""
    export = Export.published(tmp_path, PUBLISHED[1])
    noisy = next(
        index for index, line in enumerate(export.lines)
        if line["subject"].split(".")[4] == "verified" and line["event"]["candidate"] == "c000001"
    )  # fmt: skip

    def scatter(event: events_pb2.Event) -> None:
        for seed, by in zip(event.candidate_verified.training.seeds, (2.0, -2.0, 2.0, -2.0, 0.0), strict=True):
            seed.loss += by

    export.change(noisy, scatter)
    problems = (await export.audited()).problems

    assert any(
        "recorded as confirmed against c000002, but the losses give undecided" in problem
        and "a gain over c000001 is not shown" in problem
        for problem in problems
    )
    assert any("c000015 may be from an earlier version" in problem for problem in problems)


async def test_a_verdict_must_not_compare_losses_on_different_texts(tmp_path: Path) -> None:
    """A gain may then be the text's."""
    export = Export.published(tmp_path, PUBLISHED[1])

    def other_text(event: events_pb2.Event) -> None:
        for seed in event.candidate_verified.training.seeds:
            seed.measurements.data_fingerprint = "other"

    export.change(export.of("verified"), other_text)
    problems = (await export.audited()).problems

    assert any("compares losses on different text or in different precision" in problem for problem in problems)


async def test_the_program_to_train_again_is_the_trained_one(tmp_path: Path) -> None:
    """An engineer may have repaired the proposed one, which cannot be trained."""
    export = Export.published(tmp_path, PUBLISHED[1])
    candidate = export.lines[export.of("confirmed")]["event"]["candidate"]
    trained = next(
        index for index, line in enumerate(export.lines)
        if line["subject"].endswith("candidate.trained") and line["event"]["candidate"] == candidate
    )  # fmt: skip

    def repair(event: events_pb2.Event) -> None:
        event.candidate_trained.training.program = "repaired"

    export.change(trained, repair)
    export.rechain()

    claims = {claim.candidate: claim.program for claim in (await export.audited()).claims}

    assert claims[candidate] == "repaired"
