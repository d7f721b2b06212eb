"""The offline judge on records like those of a run."""

import pytest

from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.zoo import baseline
from services.judge.judges import Case, OfflineJudge


def measured(name: str, number: int, loss: float, speed: float = 16_000.0) -> pb.Candidate:
    known = baseline(name)
    seed = pb.SeedResult(
        seed=1, loss=loss,
        measurements=pb.Measurements(parameters=400_000, tokens_per_second=speed, peak_memory_bytes=10**9),
    )  # fmt: skip
    return pb.Candidate(
        id=f"c{number:06d}", run="r1", kind=pb.KIND_BASELINE, stage="tiny",
        request=pb.Request(number=number, baseline=name),
        proposal=pb.Proposal(name=known.title, program=known.program),
        training=pb.Training(seeds=[seed], loss=loss, benchmark=0.4),
    )  # fmt: skip


ROOT, ANCHOR, OTHER = measured("delta_net", 1, 1.50), measured("gated_delta_net", 2, 1.38), measured("retnet", 3, 1.60)


def case(record: pb.Candidate, anchor: pb.Candidate | None = ANCHOR) -> Case:
    return Case(record, ROOT, anchor, (ROOT,), (ROOT, ANCHOR), events_pb2.RunSettings(mind="offline"))


async def test_the_root_is_five_and_the_anchor_seven() -> None:
    """The reference points of the scale."""
    assert (await OfflineJudge().judge(case(ROOT))).raw == 5.0
    assert (await OfflineJudge().judge(case(ANCHOR))).raw == pytest.approx(7.0)


async def test_a_worse_loss_is_judged_worse() -> None:
    """All else equal."""
    better, worse = (measured("retnet", 3, loss) for loss in (1.45, 1.60))
    judge = OfflineJudge()
    scores = [(await judge.judge(case(record))).scores for record in (better, worse)]

    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0].performance > scores[1].performance


async def test_without_an_anchor_it_says_that_it_is_not_calibrated() -> None:
    """A run may leave Gated DeltaNet out, or measure that it does not lead."""
    worse = measured("gated_delta_net", 2, 1.60)

    for anchor, reason in ((None, "is not measured"), (worse, "does not lead DeltaNet clearly")):
        justification = (await OfflineJudge().judge(case(OTHER, anchor))).justification
        assert f"not calibrated, since Gated DeltaNet {reason}" in justification


async def test_a_candidate_without_measurements_is_not_judged() -> None:
    """There is no basis for an opinion."""
    unknown = pb.Candidate(id="c000009", run="r1", proposal=pb.Proposal(name="x", program="y = 1"))
    opinion = await OfflineJudge().judge(case(unknown))

    assert opinion.raw is None
    assert opinion.absent_because
