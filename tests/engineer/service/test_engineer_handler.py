"""From candidate.proposed to candidate.trained: real sandbox, real training of a second, real broker and gRPC."""

import asyncio
from pathlib import Path

import pytest

from services.chassis.bus import Bus
from services.chassis.bus.topology import MAX_EVENT_BYTES
from services.chassis.errors import HandedBack, Rejected
from services.chassis.events import body_of
from services.contracts import candidate_pb2 as pb
from services.engineer.stages import Stages
from services.sandbox import Sandbox
from tests.engineer.service.engineer_neighbours import Archive, delivery, engineering
from tests.engineer.training.programs import CONVOLUTION, LOOKS_AHEAD_WHEN_SCORED, mixer

pytestmark = pytest.mark.asyncio(loop_scope="module")
KILLS_ITSELF = mixer("(__import__('os').kill(__import__('os').getpid(), 9) if self.training else None)")
WRONG_TYPE = mixer("x = x @ self.out.weight.double()")
CANNOT_BE_HELPED = mixer("x = x + torch.zeros(3, 5)")


async def test_every_seed_is_trained_and_measured(bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path) -> None:
    """One event, small enough for the bus, with means over the seeds and who measured them how."""
    job = delivery(bus, seeds=(1, 2, 3))
    async with engineering(sandbox, stages, tmp_path) as engineer:
        (event,) = await engineer.handle(job)
    training = event.candidate_trained.training

    assert event.WhichOneof("fact") == "candidate_trained"
    assert event.previous == job.cause.sha256
    assert [seed.seed for seed in training.seeds] == [1, 2, 3]
    assert training.loss == pytest.approx(sum(seed.loss for seed in training.seeds) / 3)
    assert training.loss_stderr > 0
    assert training.worker
    assert training.seeds[0].measurements.isolation == sandbox.level
    assert len(body_of(event)) < MAX_EVENT_BYTES


async def test_a_seed_that_ended_is_not_trained_again(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """A second delivery, after a kill, goes on where the first one was: its clock readings are the first one's."""
    async with engineering(sandbox, stages, tmp_path) as engineer:
        (once,) = await engineer.handle(delivery(bus))
        (more,) = await engineer.handle(delivery(bus, seeds=(1, 2), attempt=2))

    assert more.candidate_trained.training.seeds[0] == once.candidate_trained.training.seeds[0]
    assert more.candidate_trained.training.attempt == 2


async def test_a_drained_training_goes_on_and_ends_the_same(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """The resumed curve equals an uninterrupted one, whichever engineer resumes it."""
    draining = asyncio.Event()
    draining.set()
    async with engineering(sandbox, stages, tmp_path) as engineer:
        with pytest.raises(HandedBack):
            await engineer.handle(delivery(bus, draining=draining))
    assert list((tmp_path / "work" / "r1" / "c000001").glob("1.checkpoint"))
    async with engineering(sandbox, stages, tmp_path) as successor:
        (resumed,) = await successor.handle(delivery(bus, attempt=2))
    async with engineering(sandbox, stages, tmp_path / "other") as undisturbed:
        (whole,) = await undisturbed.handle(delivery(bus))

    assert resumed.candidate_trained.training.seeds[0].curve == whole.candidate_trained.training.seeds[0].curve
    assert (
        resumed.candidate_trained.training.seeds[0].block_losses
        == whole.candidate_trained.training.seeds[0].block_losses
    )


async def test_an_honest_slip_is_repaired_and_the_attempt_is_in_the_record(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """What was trained is the repaired program, and the first one and its error stay readable."""
    async with engineering(sandbox, stages, tmp_path) as engineer:
        (event,) = await engineer.handle(delivery(bus, WRONG_TYPE))
    training = event.candidate_trained.training

    assert len(training.revisions) == 1
    assert training.revisions[0].program == WRONG_TYPE
    assert "dtype" in training.revisions[0].error
    assert training.program not in ("", WRONG_TYPE)


async def test_a_loss_too_good_to_be_true_is_looked_at_again(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """The thorough check, and root and candidate once more with another seed, shifted data and other text."""
    root = pb.Candidate(id="c000000", kind=pb.KIND_BASELINE, request=pb.Request(baseline="delta_net"))
    root.proposal.program, root.training.loss = CONVOLUTION, 99.0
    async with engineering(sandbox, stages, tmp_path, Archive(baselines=[root])) as engineer:
        (event,) = await engineer.handle(delivery(bus))
    training = event.candidate_trained.training
    found = training.investigation

    assert (found.loss, found.floor) == (training.loss, pytest.approx(0.9 * 99.0))
    assert found.probes > 3
    assert not found.failed
    assert found.seed not in (0, 1)
    assert found.repeated_loss == found.repeated_root_loss
    assert found.repeated_loss != found.loss


@pytest.mark.parametrize(
    ("program", "kind"),
    [(CANNOT_BE_HELPED, "error"), (KILLS_ITSELF, "died"), (LOOKS_AHEAD_WHEN_SCORED, "looks-ahead")],
    ids=["error", "died", "looks-ahead"],
)
async def test_a_candidate_at_fault_is_rejected(
    program: str, kind: str, bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """With the evidence of what it did; the engineer goes on with the next one."""
    async with engineering(sandbox, stages, tmp_path) as engineer:
        with pytest.raises(Rejected) as rejected:
            await engineer.handle(delivery(bus, program))

    assert rejected.value.stage == "train"
    assert rejected.value.evidence["kind"] == kind


async def test_work_that_is_done_already_is_not_done_again(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """A delivery may come again after its acknowledgement was lost."""
    async with engineering(sandbox, stages, tmp_path, Archive(pb.STATE_ARCHIVED)) as engineer:
        assert await engineer.handle(delivery(bus, attempt=2)) == []
