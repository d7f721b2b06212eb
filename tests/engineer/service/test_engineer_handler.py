"""From candidate.proposed to candidate.trained: real sandbox, real training of a second, real broker and gRPC."""

import asyncio
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from services.archive.artifacts import FsspecArtifacts
from services.chassis.bus import Bus
from services.chassis.bus.topology import MAX_EVENT_BYTES
from services.chassis.errors import HandedBack, Rejected, Transient
from services.chassis.events import body_of
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.engineer.handlers import Engineer
from services.engineer.stages import Stages
from services.engineer.training.host import JOB
from services.engineer.training.measurements import device_name
from services.sandbox import Sandbox
from services.sandbox.confinement import SECCOMP
from tests.archive_server import hold
from tests.engineer.hostile.programs import TURNS_QUADRATIC
from tests.engineer.program.test_substitution import DELTA, MIXER
from tests.engineer.service.engineer_fixtures import SETTINGS, delivery, engineering, published
from tests.engineer.training.inline_sandbox import ChildEnd, InlineSandbox
from tests.engineer.training.programs import CONVOLUTION, LOOKS_AHEAD_WHEN_SCORED, mixer

pytestmark = pytest.mark.asyncio(loop_scope="session")
KILLS_ITSELF = mixer("(__import__('os').kill(__import__('os').getpid(), 9) if self.training else None)")
WRONG_TYPE = mixer("x = x @ self.out.weight.double()")
CANNOT_BE_HELPED = mixer("x = x + torch.zeros(3, 5)")


async def test_every_seed_is_trained_and_measured(bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path) -> None:
    """One event, small enough for the bus, with means over the seeds, who measured them how, and their weights."""
    artifacts = FsspecArtifacts(str(tmp_path / "artifacts"))
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        engineer.weights = artifacts
        job = await delivery(bus, seeds=(1, 2, 3))
        assert await engineer.handle(job) == []
    (event,) = await published(bus, "trained")
    training = event.candidate_trained.training

    assert event.previous == job.cause.sha256
    assert [seed.seed for seed in training.seeds] == [1, 2, 3]
    assert training.loss == pytest.approx(sum(seed.loss for seed in training.seeds) / 3)
    assert training.loss_stderr > 0
    assert training.worker
    assert training.seeds[0].measurements.isolation == sandbox.level
    assert len(body_of(event)) < MAX_EVENT_BYTES
    assert all([await artifacts.get(seed.checkpoint) for seed in training.seeds])
    assert not list((tmp_path / "work").rglob("*.checkpoint"))


async def test_a_recurrence_is_trained_by_its_kernel_and_both_forms_are_kept(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """What was proposed stays in the proposal; what was trained holds the slow form beside the fast one."""
    settings = events_pb2.RunSettings()
    settings.CopyFrom(SETTINGS)
    settings.scale_overrides["substitute"] = "true"
    program = MIXER.format(function=DELTA, call="delta(q, k, v, gate)")
    async with engineering(sandbox, stages, tmp_path, bus, settings) as (engineer, _):
        await engineer.handle(await delivery(bus, program))
    (event,) = await published(bus, "trained")
    training = event.candidate_trained.training

    assert [(substitution.function, substitution.operator) for substitution in training.substitutions] == [
        ("delta", "fla.ops.delta_rule.chunk_delta_rule")
    ]
    assert "def _slow_delta(" in training.program
    assert training.HasField("loss")


async def test_a_machine_without_the_scales_device_claims_nothing(
    monkeypatch: pytest.MonkeyPatch, bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """Its candidates are delivered again and again: each claim and release would be kept in the log and the record."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = events_pb2.RunSettings()
    settings.CopyFrom(SETTINGS)
    settings.scale_overrides["device"] = "cuda"
    async with engineering(sandbox, stages, tmp_path, bus, settings) as (engineer, _):
        with pytest.raises(Transient, match="torch finds none here"):
            await engineer.handle(await delivery(bus))

    assert await published(bus, "claimed") == []


async def test_a_gpu_that_fails_costs_no_candidate(monkeypatch: pytest.MonkeyPatch, bus: Bus, tmp_path: Path) -> None:
    """Every later one was rejected for the same error, after repairs of its program."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    works = iter([True, False])

    def use_gpu(channel: ChildEnd) -> None:
        channel.receive()
        if next(works, False):
            channel.send("measured", {"fp32": 1.0, "bf16": 0.5})
        else:
            channel.send("failed", {"error": "AcceleratorError", "message": "uncorrectable ECC error encountered"})

    sandbox = InlineSandbox({"services.engineer.speed_child:run_precisions": use_gpu, JOB: use_gpu})
    settings = events_pb2.RunSettings()
    settings.CopyFrom(SETTINGS)
    settings.scale_overrides["device"] = "cuda"
    async with engineering(sandbox, Stages(sandbox, tmp_path), tmp_path, bus, settings) as (engineer, _):
        with pytest.raises(Transient, match="uncorrectable ECC error"):
            await engineer.handle(await delivery(bus))


async def test_a_drained_training_goes_on_and_ends_the_same(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """The resumed curve equals an uninterrupted one, whichever engineer resumes it; the drain is no fault."""
    draining = asyncio.Event()
    draining.set()
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, archive):
        job = await delivery(bus, draining=draining)
        with pytest.raises(HandedBack):
            await engineer.handle(job)
        assert list((tmp_path / "work" / "r1" / "c000001").glob("1.checkpoint"))
        successor = Engineer(sandbox, stages, archive.stub, None, tmp_path)
        await successor.handle(replace(job, draining=asyncio.Event()))
        undisturbed = Engineer(sandbox, stages, archive.stub, None, tmp_path / "other")
        await undisturbed.handle(await delivery(bus, candidate="c000002"))
        record = await archive.archive.record("r1", "c000001")
    resumed, uninterrupted = [event.candidate_trained.training for event in await published(bus, "trained")]

    assert resumed.seeds[0].curve == uninterrupted.seeds[0].curve
    assert resumed.seeds[0].block_losses == uninterrupted.seeds[0].block_losses
    assert (resumed.attempt, [bool(claim.released) for claim in record.claims]) == (2, [True, False])


async def test_a_disk_that_takes_no_files_costs_no_candidate(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """Checkpoints and results of seeds only save work of later attempts. (A file stands where the folder would be.)"""
    (tmp_path / "work").touch()
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        with capture_logs() as logs:
            await engineer.handle(await delivery(bus))
    (trained,) = await published(bus, "trained")

    assert trained.candidate_trained.training.HasField("loss")
    assert {"a checkpoint was not written", "a result was not stored for later attempts"} <= {
        entry["event"] for entry in logs
    }


async def test_a_killed_fork_server_costs_no_candidate(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """The OOM killer chose it: the training is handed back, and its claim is not a crash of the candidate's."""
    if SECCOMP not in sandbox.level:
        pytest.skip("without seccomp, a candidate may have killed the fork server")
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, archive):
        job = await delivery(bus)
        handling = asyncio.create_task(engineer.handle(job))
        async with asyncio.timeout(60):
            while not (await published(bus, "claimed") and sandbox.processes()):  # noqa: ASYNC110 - the log and /proc wake nobody
                await asyncio.sleep(0.01)
        os.kill(sandbox.server_process, signal.SIGKILL)
        with pytest.raises(Transient, match="fork server"):
            await handling
        assert await engineer.handle(job) == []
        record = await archive.archive.record("r1", "c000001")

    assert len(await published(bus, "trained")) == 1
    assert [bool(claim.released) for claim in record.claims] == [True, False]


async def test_a_seed_that_ended_is_not_trained_again(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """A second attempt, after a kill, goes on where the first one was: its clock readings are the first one's."""
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        await engineer.handle(await delivery(bus))
        checkpoint = next((tmp_path / "work" / "r1" / "c000001").glob("1-*.result"))
        (tmp_path / "work" / "r1" / "c000002").mkdir()
        (tmp_path / "work" / "r1" / "c000002" / checkpoint.name).write_bytes(checkpoint.read_bytes())
        await engineer.handle(await delivery(bus, seeds=(1, 2), candidate="c000002"))
    once, more = [event.candidate_trained.training for event in await published(bus, "trained")]

    assert more.seeds[0] == once.seeds[0]
    assert len(more.seeds) == 2


async def test_a_mistake_is_repaired_and_the_attempt_is_recorded(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """What was trained is the repaired program, and the first one and its error stay readable."""
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        await engineer.handle(await delivery(bus, WRONG_TYPE))
    (event,) = await published(bus, "trained")
    training = event.candidate_trained.training

    assert len(training.revisions) == 1
    assert training.revisions[0].program == WRONG_TYPE
    assert "dtype" in training.revisions[0].error
    assert training.program not in ("", WRONG_TYPE)


async def test_an_implausibly_low_loss_is_investigated(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """The thorough check, and root and candidate once more with another seed, shifted data and other text."""
    root = pb.Candidate(id="c000000", kind=pb.KIND_BASELINE, stage="tiny", request=pb.Request(baseline="delta_net"))
    root.proposal.program, root.training.loss = CONVOLUTION, 99.0
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        await hold(bus, root)
        await engineer.handle(await delivery(bus))
        await engineer.handle(await delivery(bus, candidate="c000002"))
    event, of_another = await published(bus, "trained")
    training = event.candidate_trained.training
    investigation = training.investigation

    assert (investigation.loss, investigation.floor) == pytest.approx((training.loss, 0.9 * 99.0))
    assert investigation.probes > 3
    assert not investigation.failed
    assert investigation.seed not in (0, 1)
    assert investigation.repeated_loss == investigation.repeated_root_loss
    assert investigation.repeated_loss != investigation.loss
    assert (investigation.other_text, investigation.other_text_loss) == (
        "documentation",
        investigation.other_text_root_loss,
    )
    assert investigation.other_text_loss != investigation.repeated_loss
    assert training.overhead.seconds > 0
    assert not training.overhead.HasField("gpu_seconds")
    # The root is trained again once for all suspects with the same seeds.
    assert len(list((tmp_path / "work" / "r1" / "root-again").glob("*.result"))) == 1
    assert of_another.candidate_trained.training.investigation.repeated_root_loss == investigation.repeated_root_loss


@pytest.mark.parametrize("machine", ["another processor", "this one", "this one, slow in the run's precision"])
async def test_a_step_takes_long_only_beside_peers_of_an_equal_machine(
    machine: str, monkeypatch: pytest.MonkeyPatch, bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """A fork of a published run rejected all its candidates where bf16 is emulated, as their steps took five times."""
    if "slow" in machine:
        monkeypatch.setitem(stages.unsuited, ("tiny", SETTINGS.scale_overrides["precision"]), "as measured")
    root = pb.Candidate(id="c000000", kind=pb.KIND_BASELINE, stage="tiny", request=pb.Request(baseline="delta_net"))
    root.proposal.program, root.training.loss = CONVOLUTION, 9.0
    seed = root.training.seeds.add(seed=1, loss=9.0, curve=[pb.CurvePoint(step=1, tokens=1)])
    seed.measurements.tokens_per_second = 1e9
    seed.measurements.device_name = machine if machine.startswith("another") else device_name("cpu")
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        await hold(bus, root)
        with pytest.raises(Rejected, match="A step takes") if machine == "this one" else nullcontext():
            await engineer.handle(await delivery(bus))

    assert len(await published(bus, "trained")) == (machine != "this one")


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (CANNOT_BE_HELPED, "error"),
        (KILLS_ITSELF, "died"),
        (LOOKS_AHEAD_WHEN_SCORED, "looks-ahead"),
        (TURNS_QUADRATIC["when its weights have changed"], "superlinear"),
    ],
    ids=["error", "died", "looks-ahead", "superlinear"],
)
async def test_a_candidate_at_fault_is_rejected(
    program: str, kind: str, bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """With the evidence of what it did; the engineer goes on with the next one."""
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        with pytest.raises(Rejected) as rejected:
            await engineer.handle(await delivery(bus, program))

    assert rejected.value.stage == "train"
    assert rejected.value.evidence["kind"] == kind
    assert rejected.value.overhead is not None
    assert 0 < rejected.value.overhead.seconds < 240


async def test_work_that_is_done_already_is_not_done_again(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """A delivery may come again after its acknowledgement was lost, whatever its number is."""
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, _):
        job = await delivery(bus)
        await engineer.handle(job)
        assert await engineer.handle(job) == []

    (event,) = await published(bus, "trained")
    assert not event.candidate_trained.training.HasField("overhead")
    assert len(await published(bus, "claimed")) == len(await published(bus, "trained")) == 1


async def test_results_on_other_text_are_reported_once_by_the_engineer(
    bus: Bus, sandbox: Sandbox, stages: Stages, tmp_path: Path
) -> None:
    """The archive compares none of them: an engineer without the others' secret works for nothing."""
    async with engineering(sandbox, stages, tmp_path, bus) as (engineer, archive):
        await engineer.handle(await delivery(bus, baseline="delta_net"))
        another = Stages(sandbox, tmp_path / "another", text_seed="another")
        stranger = Engineer(sandbox, another, archive.stub, None, tmp_path / "another")
        with capture_logs() as logs:
            await engineer.handle(await delivery(bus, candidate="c000002"))
            for candidate in ("c000003", "c000004"):
                await stranger.handle(await delivery(bus, candidate=candidate))
    (warning,) = [entry for entry in logs if entry["event"] == "other held-out text"]

    assert warning["log_level"] == "warning"
    assert warning["why"].startswith("c000001 was measured on other text by ")
    assert "if it was this engineer, its secret file was lost" in warning["why"]
