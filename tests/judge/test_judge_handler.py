"""From candidate.trained to candidate.judged, with an archive and a checker behind real gRPC and a real broker."""

from dataclasses import replace

import pytest

from services.archive.scoring import loss_gain
from services.chassis.bus import Bus
from services.chassis.errors import NotYet, Rejected
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.zoo import baseline
from tests.judge.judge_fixtures import (
    ANCHOR,
    ROOT,
    Archive,
    Checker,
    judging,
    settings_of,
    trained,
    untrained,
)

CHILD = trained(3, 1.44, parent="c000001")
STANDARDISED = events_pb2.RunSettings(baselines=["delta_net", "gated_delta_net"])


async def verdict_on(bus: Bus, archive: Archive, record: pb.Candidate = CHILD) -> pb.Verdict:
    async with judging(archive) as judge:
        (event,) = await judge.handle(bus, record)
    return event.candidate_judged.verdict


async def test_a_trained_candidate_is_judged(bus: Bus) -> None:
    """The event follows from its cause, and the fitness contains its terms and interval."""
    async with judging(Archive(ROOT, ANCHOR)) as judge:
        job = judge.delivery(bus, CHILD)
        (event,) = await judge.handler.handle(job)
        (again,) = await judge.handler.handle(job)

    verdict = event.candidate_judged.verdict
    assert event.WhichOneof("fact") == "candidate_judged"
    assert event.previous == job.cause.sha256
    assert (again.id, again.candidate_judged) == (event.id, event.candidate_judged)
    assert (verdict.baseline, verdict.baseline_loss, verdict.baseline_benchmark) == ("c000001", 1.50, 0.4)
    assert verdict.fitness.interval.low <= verdict.fitness.value <= verdict.fitness.interval.high
    assert verdict.fitness.judge_term == pytest.approx((verdict.raw - 1) / 9)
    assert not verdict.absent_because


async def test_the_root_is_five_by_definition(bus: Bus) -> None:
    """Its differences to itself are zero."""
    verdict = await verdict_on(bus, Archive(untrained(ROOT)), ROOT)

    assert verdict.raw == 5.0
    assert verdict.fitness.loss_term == 0.5
    assert verdict.fitness.benchmark_term == 0.5


async def test_the_default_fitness_is_in_units_of_noise(bus: Bus) -> None:
    """It names its terms, which do not include the judge's opinion."""
    verdict = await verdict_on(bus, Archive(ROOT, ANCHOR, settings=STANDARDISED))
    (loss,) = [term for term in verdict.fitness.terms if term.name == "loss"]

    assert verdict.fitness.version == "standardised-gain-1"
    assert loss.gain == pytest.approx(1.50 - 1.44)
    assert verdict.fitness.value == pytest.approx(loss.gain / loss.noise)
    assert verdict.fitness.interval.low < verdict.fitness.value < verdict.fitness.interval.high


async def test_baselines_are_scored_again_once_all_are_measured(bus: Bus) -> None:
    """One scale holds for all that is ranked together: the root's, judged first, knew the noise of fewer models."""
    root = pb.Candidate()
    root.CopyFrom(ROOT)
    root.verdict.CopyFrom(await verdict_on(bus, Archive(untrained(ROOT), settings=STANDARDISED), ROOT))
    async with judging(Archive(root, untrained(ANCHOR), settings=STANDARDISED)) as judge:
        rescored, judged = await judge.handle(bus, ANCHOR)
    root.verdict.fitness.CopyFrom(rescored.candidate_rescored.fitness)
    async with judging(Archive(root, ANCHOR, settings=STANDARDISED)) as judge:
        later = await judge.handle(bus, CHILD)

    noises = [
        term.noise
        for fitness in (root.verdict.fitness, judged.candidate_judged.verdict.fitness)
        for term in fitness.terms
    ]
    assert rescored.candidate == ROOT.id
    assert root.verdict.fitness.value == 0
    assert len(set(noises)) == 1
    assert [event.WhichOneof("fact") for event in later] == ["candidate_judged"]


async def test_a_copy_of_a_reference_is_not_innovative(bus: Bus) -> None:
    """A copy of a shown program is not new."""
    shown = trained(3, 1.46, program=baseline("gla").program)
    record = trained(4, 1.44, parent="c000001", program=baseline("gla").program)
    alone = await verdict_on(bus, Archive(ROOT, ANCHOR, shown), record)
    record.proposal.references.append(shown.id)
    beside = await verdict_on(bus, Archive(ROOT, ANCHOR, shown), record)

    assert beside.scores.innovation == 5.0
    assert alone.scores.innovation > 5.0


async def test_without_judge_the_fitness_has_two_terms(bus: Bus) -> None:
    """The ablation measures the value of the judge."""
    ablated = settings_of(ablations=events_pb2.Ablations(without_judge=True))
    verdict = await verdict_on(bus, Archive(ROOT, ANCHOR, settings=ablated))

    assert not verdict.HasField("raw")
    assert not verdict.fitness.HasField("judge_term")
    assert verdict.fitness.value == pytest.approx((verdict.fitness.loss_term + verdict.fitness.benchmark_term) / 2)


async def test_without_a_term_the_fitness_is_absent(bus: Bus) -> None:
    """An absent term is not an average."""
    record = trained(3, 1.44)
    record.training.ClearField("benchmark")
    verdict = await verdict_on(bus, Archive(ROOT, ANCHOR), record)

    assert not verdict.HasField("fitness")
    assert "not all of its terms were measured" in verdict.absent_because


@pytest.mark.parametrize("field", ["data_fingerprint", "precision"])
async def test_with_other_data_or_precision_the_fitness_is_absent(bus: Bus, field: str) -> None:
    """Losses on different texts, or of different arithmetic, have no difference, and no interval either."""
    record = trained(3, 1.44)
    setattr(record.training.seeds[0].measurements, field, "other")
    verdict = await verdict_on(bus, Archive(ROOT, ANCHOR), record)

    assert not verdict.HasField("fitness")
    assert f"{field} differs" in verdict.absent_because
    assert ("ASI_ENGINEER_TEXT_SEED" in verdict.absent_because) == (field == "data_fingerprint")
    assert loss_gain(record, ROOT) is None
    assert loss_gain(CHILD, ROOT) is not None


async def test_with_uneven_tasks_of_seeds_only_the_interval_is_absent(bus: Bus) -> None:
    """The means are known, only their errors are not."""
    root, record = trained(1, 1.50, "delta_net"), trained(3, 1.44)
    for candidate in (root, record):
        candidate.training.seeds.add().CopyFrom(candidate.training.seeds[0])
        candidate.training.seeds[1].seed = 2
        del candidate.training.seeds[1].scores[0].correct[25:]
    verdict = await verdict_on(bus, Archive(root, ANCHOR), record)

    assert verdict.HasField("fitness")
    assert not verdict.fitness.HasField("interval")


async def test_the_anchor_is_waited_for(bus: Bus) -> None:
    """The scale is taken from it, so its number comes first; the candidate comes again until it is there."""
    archive = Archive(ROOT, untrained(ANCHOR))
    async with judging(archive) as judge:
        with pytest.raises(NotYet, match="not measured yet") as early:
            await judge.handle(bus, CHILD)
        archive.put(ANCHOR)
        (event,) = await judge.handle(bus, CHILD)

    assert early.value.delay
    assert "Gated DeltaNet at 7" in event.candidate_judged.verdict.justification


async def test_a_rejected_anchor_is_not_waited_for(bus: Bus) -> None:
    """The verdict says that it is not calibrated."""
    verdict = await verdict_on(bus, Archive(ROOT, untrained(ANCHOR, pb.STATE_REJECTED)))

    assert "not calibrated" in verdict.justification
    assert verdict.HasField("fitness")


async def test_an_earlier_candidate_does_not_wait_for_a_later_anchor(bus: Bus) -> None:
    """Otherwise two could wait for each other."""
    later = untrained(trained(9, 1.45, "gated_delta_net"))

    assert "not calibrated" in (await verdict_on(bus, Archive(ROOT, later))).justification


async def test_a_rejected_root_ends_the_candidate(bus: Bus) -> None:
    """There is nothing to compare with."""
    with pytest.raises(Rejected, match="root delta_net was rejected"):
        await verdict_on(bus, Archive(untrained(ROOT, pb.STATE_REJECTED), ANCHOR))


async def test_an_implausibly_low_loss_is_probed_further_and_rejected(bus: Bus) -> None:
    """With the numbers, the failed probe and where the watcher stopped it."""
    record = trained(3, 1.10)
    record.training.seeds[0].stopped = "loss is too low"
    checker = Checker([pb.ProbeVerdict(probe="causality", outcome="fail", message="position 7 sees 9")])
    async with judging(Archive(ROOT, ANCHOR), checker) as judge:
        with pytest.raises(Rejected) as rejected:
            await judge.handle(bus, record)

    assert [request.thorough for request in checker.asked] == [True]
    assert "position 7 sees 9" in rejected.value.reason
    assert rejected.value.evidence["floor"] == pytest.approx(1.35)
    assert rejected.value.evidence["stopped"] == ["loss is too low"]


async def test_a_run_may_keep_candidates_that_pass_the_further_probes(bus: Bus) -> None:
    """The policy "probe" trusts the checks."""
    settings = settings_of()
    settings.policies.leakage = "probe"
    checker = Checker()
    async with judging(Archive(ROOT, ANCHOR, settings=settings), checker) as judge:
        (event,) = await judge.handle(bus, trained(3, 1.10))

    assert len(checker.asked) == 1
    assert event.HasField("candidate_judged")


@pytest.mark.parametrize(
    ("policy", "repeated", "reason"),
    [("", 1.12, ""), ("", 1.49, "gains 0.0100 nats"), ("probe", 1.49, ""), ("paper", 1.12, "leakage=paper")],
    ids=["repeats", "does not repeat", "only probed", "the paper's rule"],
)
async def test_a_low_loss_is_rejected_on_evidence(bus: Bus, policy: str, repeated: float, reason: str) -> None:
    """By default what another seed, other data and other text bear out is kept; the engineer's record says it."""
    settings, record = settings_of(), trained(3, 1.10)
    if policy:
        settings.policies.leakage = policy
    record.training.investigation.CopyFrom(
        pb.Investigation(loss=1.10, floor=1.35, probes=9, repeated_loss=repeated, repeated_root_loss=1.50, seed=7920)
    )
    checker = Checker()
    async with judging(Archive(ROOT, ANCHOR, settings=settings), checker) as judge:
        if reason:
            with pytest.raises(Rejected, match=reason) as rejected:
                await judge.handle(bus, record)
            assert rejected.value.evidence["repeated_gain"] == pytest.approx(1.50 - repeated)
        else:
            (event,) = await judge.handle(bus, record)
            assert event.WhichOneof("fact") == "candidate_judged"

    assert not checker.asked


async def test_an_honest_control_below_the_threshold_moves_it(bus: Bus) -> None:
    """At tiny scale a value skip alone is more than 10% below DeltaNet."""
    control = trained(3, 1.30, "delta_net_value_skip")
    checker = Checker()
    async with judging(Archive(ROOT, ANCHOR, control), checker) as judge:
        (event,) = await judge.handle(bus, trained(4, 1.25))

    assert not checker.asked
    assert event.HasField("candidate_judged")


async def test_work_that_is_done_already_is_not_done_again(bus: Bus) -> None:
    """A delivery may come again after its acknowledgement was lost."""
    archived = trained(3, 1.44)
    archived.state = pb.STATE_ARCHIVED
    async with judging(Archive(ROOT, ANCHOR)) as judge:
        again = replace(judge.delivery(bus, CHILD), attempt=2)
        judge.archive.put(archived)

        assert await judge.handler.handle(again) == []
