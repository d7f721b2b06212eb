"""The engineer's handler: it claims a proposed candidate, trains and evaluates all seeds, and publishes the results.

A killed engineer loses at most a minute of work: checkpoints and results of seeds are kept in a `WorkFolder`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from services.archive.artifacts import FsspecArtifacts
from services.archive.records import record_for
from services.archive.scoring import program_of
from services.chassis import metrics, worker
from services.chassis.errors import HandedBack, Rejected, Transient
from services.chassis.events import follow
from services.chassis.tasks import all_ended
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.zoo import baselines, is_reference
from services.engineer.claims import LOST_SECONDS, SERVICE, WORKER, Claims
from services.engineer.data.corpus import share_of
from services.engineer.investigation import (
    ROOT_AGAIN,
    RunContext,
    find_suspicion,
    foreign_text,
    investigate,
    peers_of,
    run_context,
    watch_settings,
)
from services.engineer.records import (
    WorkFolder,
    add_overhead,
    add_state_size,
    keep_weights,
    seed_message,
    substitution_messages,
    training_message,
    training_progress,
)
from services.engineer.revision import Failure, revise
from services.engineer.scales import AUTO, load_scale
from services.engineer.stages import Stage, Stages, overrides_for
from services.engineer.substitution import Substitution, substitute
from services.engineer.training.compiled import CompileCache
from services.engineer.training.host import Trained, optimise, require_independent, score
from services.engineer.training.measurements import device_name, require_device, versions
from services.engineer.training.result import Drained, Metrics, TrainingFailed
from services.engineer.training.session import Job as Training
from services.engineer.training.session import Supervision
from services.llm.minds import Minds
from services.sandbox import Sandbox, SandboxUnavailable

MAX_REVISIONS = 3
REFERENCES = frozenset(baseline.program for baseline in baselines() if is_reference(baseline.name))
"""Programs that are exempt from the limit on cost."""


@dataclass
class Engineer:
    """Handles `candidate.proposed.<stage>`.

    Without `minds`, failed programs are repaired by rules. `trainings` maps a stage to the number of concurrent
    trainings; final weights are stored in `weights`.
    """

    sandbox: Sandbox
    stages: Stages
    archive: archive_pb2_grpc.ArchiveAsyncStub
    minds: Minds | None
    data_dir: Path
    trainings: Callable[[str], int] = lambda _: 1
    weights: FsspecArtifacts | None = None

    def __post_init__(self) -> None:
        self._claims = Claims(self.archive)
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._root_again = asyncio.Lock()
        self._warned: set[tuple[str, str]] = set()  # runs and stages with results on other text

    async def handle(self, job: Job) -> Sequence[events_pb2.Event]:
        """Train a proposed candidate and publish `candidate.trained`; raises Rejected if it cannot be trained.

        For a promoted candidate `candidate.verified` is returned, unless the archive has its result.
        """
        if job.event.HasField("candidate_promoted"):
            return await self._verify(job)
        record = await record_for(self.archive, job)
        if record is None:
            return []
        context = await run_context(self.archive, record.run, record.stage)
        async with self._claims.counting_losses(job, record):
            stage = await self.stages.open(record.stage, dict(context.settings.scale_overrides))
        require_device(stage.scale)  # before a claim, which the log and the record keep
        self._warn_of_other_data(record, stage, context)
        folder = WorkFolder(self.data_dir, record.run, record.id)
        async with self._claims.claim(job, record) as attempt, _ended_early(context):
            training = await self._train_with_revisions(job, record, stage, context, folder)
            await self._investigate(job, record, training, stage, context)
            training.attempt, training.worker = attempt, WORKER
            if context.overhead.seconds:
                training.overhead.CopyFrom(context.overhead)
            add_state_size(training, record, stage.scale)
            structlog.get_logger().info(
                "trained", loss=training.loss, benchmark=training.benchmark, seeds=len(training.seeds)
            )
            event = follow(job.cause, "trained", SERVICE, attempt, record.id)
            event.candidate_trained.CopyFrom(events_pb2.CandidateTrained(training=training, stage=record.stage))
            await self._claims.confirm(job, event)
        return []

    def _warn_of_other_data(self, record: pb.Candidate, stage: Stage, context: RunContext) -> None:
        """Once per run and stage: the archive keeps such results, but compares none of them."""
        key = record.run, record.stage
        host = WORKER.rpartition(":")[0]
        if key not in self._warned and (difference := foreign_text(stage.corpus, context.baselines, host)):
            self._warned.add(key)
            structlog.get_logger().warning("other held-out text", stage=record.stage, why=difference)

    async def _investigate(
        self, job: Job, record: pb.Candidate, training: pb.Training, stage: Stage, context: RunContext
    ) -> None:
        """Add an investigation to the training if its loss is suspiciously low."""
        suspicion = find_suspicion(record, training.loss, context)
        if suspicion is None:
            return
        program, unpruned = training.program or record.proposal.program, replace(context, finished=())

        async def repeat(name: str, program: str, seed: int, stage: Stage) -> pb.SeedResult:
            own, of_run = (WorkFolder(self.data_dir, record.run, folder) for folder in (f"{record.id}-{name}", name))
            identity = Training(program, seed, stage.scale, stage.corpus).identity
            is_root = name == ROOT_AGAIN  # the same training for all suspects with these seeds
            async with self._root_again if is_root else nullcontext():
                if is_root and (known := of_run.read_result(seed, identity)):
                    return known
                (result,) = await self._train_seeds(job, program, [seed], stage, unpruned, own)
                if is_root:
                    await asyncio.to_thread(of_run.write_result, identity, result)
            add_overhead(context.overhead, result.measurements.seconds, stage.scale.device)
            return result

        seeds = [seed.seed for seed in training.seeds]
        result = await investigate(suspicion, program, seeds, stage, self.stages, context, repeat)
        training.investigation.CopyFrom(result)

    async def _verify(self, job: Job) -> Sequence[events_pb2.Event]:
        """Train with new seeds, and score on a part of the data that no selection has used."""
        promotion = job.event.candidate_promoted
        record = await self._claims.record(job, job.sequence)
        verified = [verification for verification in record.verifications if verification.rung == promotion.rung]
        # Controls are promoted once a round, with other seeds.
        if list(promotion.seeds) in [[seed.seed for seed in earlier.training.seeds] for earlier in verified]:
            return []  # an acknowledgement was lost, or a log was imported
        context = replace(await run_context(self.archive, record.run, promotion.stage), finished=())  # no early stop
        stage = await self._promoted_stage(job, record, context)
        folder = WorkFolder(self.data_dir, record.run, f"{record.id}-rung-{promotion.rung}")
        result = events_pb2.CandidateVerified(stage=promotion.stage, rung=promotion.rung)
        attempt = 1
        try:
            async with self._claims.claim(job, record, promotion.rung or 1) as attempt, _ended_early(context):
                numbers = list(promotion.seeds) or [1]
                seeds = await self._train_seeds(job, program_of(record), numbers, stage, context, folder)
                result.training.CopyFrom(training_message(seeds, stage.scale.averaged))
                for seed in result.training.seeds:
                    seed.ClearField("curve")
        except TrainingFailed as failed:
            result.reason = failed.message
        except Rejected as rejected:
            result.reason = rejected.reason
        if context.overhead.seconds:
            result.overhead.CopyFrom(context.overhead)
        event = follow(job.cause, "verified", SERVICE, attempt, record.id, suffix=job.event.id.split(".")[-2])
        event.candidate_verified.CopyFrom(result)
        return [event]

    async def _promoted_stage(self, job: Job, record: pb.Candidate, context: RunContext) -> Stage:
        """The stage of a promotion: in the run's precision, at the width that it asks for, with text of its rung."""
        promotion = job.event.candidate_promoted
        overrides = dict(promotion.scale_overrides)
        precision = context.settings.scale_overrides.get("precision")
        if precision and load_scale(promotion.stage).precision == AUTO:
            overrides = {"precision": precision, **overrides}
        async with self._claims.counting_losses(job, record, promotion.rung or 1):
            if promotion.HasField("match_parameters"):
                program, target = program_of(record), promotion.match_parameters
                overrides = await overrides_for(self.stages, promotion.stage, overrides, program, target)
            stage = await self.stages.open(promotion.stage, overrides)
        require_device(stage.scale)
        heldout = share_of(stage.corpus.verification, promotion.rung, promotion.rungs)
        return await self.stages.with_other_text(replace(stage, corpus=replace(stage.corpus, heldout=heldout)))

    async def _train_with_revisions(
        self, job: Job, record: pb.Candidate, stage: Stage, context: RunContext, folder: WorkFolder
    ) -> pb.Training:
        """Train; a failed program is repaired, checked and trained again, at most MAX_REVISIONS times."""
        program, revisions = record.proposal.program, list[pb.Revision]()
        substitutions = await self._substitutions(program, stage)
        program = substitutions[-1].program if substitutions else program
        seed_numbers = list(record.request.seeds) or [1]
        while True:
            try:
                seeds = await self._train_seeds(job, program, seed_numbers, stage, context, folder)
            except TrainingFailed as failed:
                program = await self._revise(job, record, stage, program, failed, revisions)
            else:
                training = training_message(seeds, stage.scale.averaged)
                training.revisions.extend(revisions)
                training.program = program if revisions or substitutions else ""
                training.substitutions.extend(substitution_messages(substitutions, program))
                return training

    async def _substitutions(self, program: str, stage: Stage) -> list[Substitution]:
        """Replacements of the program's recurrences by fla's kernels, if the scale asks for them."""
        if not stage.scale.substitute:
            return []
        seed = int(stage.corpus.random(f"substitution {program}").integers(1 << 31))
        substitutions, refusals = await substitute(program, stage.scale, self.sandbox, seed)
        for refusal in refusals:
            structlog.get_logger().info("not substituted", function=refusal.function, why=refusal.reason)
        return substitutions

    async def _train_seeds(
        self, job: Job, program: str, seeds: Sequence[int], stage: Stage, context: RunContext, folder: WorkFolder
    ) -> list[pb.SeedResult]:
        """Train and score all seeds concurrently, within the stage's limit. Raises the first seed's exception.

        Scoring starts when all are trained, so that no training child of the program runs while held-out text is read.
        What failed trainings take is added to the context's overhead.
        """
        slots = self._slots.setdefault(stage.scale.name, asyncio.Semaphore(self.trainings(stage.scale.name)))
        compiled = CompileCache.below(self.data_dir / "data", stage.scale.device, versions())
        seconds = 0.0

        @asynccontextmanager
        async def slot() -> AsyncIterator[None]:
            nonlocal seconds
            async with slots:
                seconds -= time.monotonic()
                try:
                    yield
                finally:
                    seconds += time.monotonic()

        async def train(seed: int) -> Trained | pb.SeedResult:
            async with slot():
                training = Training(program, seed, stage.scale, stage.corpus, compiled)
                if result := folder.read_result(seed, training.identity):
                    return result
                return await optimise(training, self._supervision(job, seed, stage, context, folder), self.sandbox)

        async def score(training: Trained | pb.SeedResult) -> pb.SeedResult:
            async with slot():
                return training if isinstance(training, pb.SeedResult) else await self._score(training, stage, folder)

        try:
            trainings = await all_ended(train(seed) for seed in seeds)
            require_independent([training for training in trainings if isinstance(training, Trained)])
            return await all_ended(score(training) for training in trainings)
        except TrainingFailed:
            await self.stages.require_gpu(stage.scale)
            add_overhead(context.overhead, seconds, stage.scale.device)
            raise

    def _supervision(self, job: Job, seed: int, stage: Stage, context: RunContext, folder: WorkFolder) -> Supervision:
        log = structlog.get_logger()

        def on_progress(progress: Metrics) -> None:
            metrics.TRAINING_SPEED.labels(stage.scale.name).set(progress.tokens_per_second)
            worker.training(training_progress(progress))
            log.info("training", seed=seed, step=progress.step, steps=progress.steps, loss=progress.train_loss)

        peers = peers_of(context.baselines, device_name(stage.scale.device))
        if (stage.scale.name, stage.scale.precision) in self.stages.unsuited:  # slow here, whatever the program
            peers = replace(peers, seconds_per_step=None)
        return Supervision(
            on_progress,
            job.draining,
            folder.checkpoint(seed),
            watch=watch_settings(context.settings, stage),
            peers=peers,
            finished=context.finished,
        )

    async def _score(self, trained: Trained, stage: Stage, folder: WorkFolder) -> pb.SeedResult:
        """Score a trained seed and store the result in its folder. Raises TrainingFailed."""
        limit, linear = stage.settings.most_parameters, trained.job.program not in REFERENCES
        other = stage.other_text
        result = await score(trained, self.sandbox, parameter_limit=limit, other_text=other, linear=linear)
        device = result.measurements.device
        metrics.TRAINING_SECONDS.labels(stage.scale.name, device).inc(result.measurements.seconds)
        message = seed_message(result)
        if self.weights is not None:
            message.checkpoint.CopyFrom(await keep_weights(self.weights, trained.weights))
        await asyncio.to_thread(folder.write_result, trained.job.identity, message)
        return message

    async def _revise(
        self,
        job: Job,
        record: pb.Candidate,
        stage: Stage,
        program: str,
        failed: TrainingFailed,
        revisions: list[pb.Revision],
    ) -> str:
        """The repaired program. Raises Rejected if it cannot be repaired or fails its check."""
        error = f"{failed.message}\n{failed.log_tail}".strip()[-6000:]
        evidence = {"kind": failed.kind, **failed.evidence, "revisions": len(revisions), "error": error[-2000:]}
        if failed.dishonest or len(revisions) >= MAX_REVISIONS:
            raise Rejected("train", failed.message, evidence)
        history = "\n".join(f"- {revision.repair}" for revision in revisions)
        repair = await revise(self.minds, job, record, Failure(program, error, failed.kind, history))
        if repair is None:
            raise Rejected("train", failed.message, evidence)
        revisions.append(pb.Revision(program=program, error=error, repair=repair.what))
        report = await self.stages.check(
            stage, repair.program, exempt_from_cost=is_reference(record.request.baseline), thorough=False
        )
        if not report.passed:
            broken = next(verdict for verdict in report.verdicts if verdict.outcome == "fail")
            reason = f"the repaired program fails the check {broken.probe}: {broken.message}"
            raise Rejected("train", reason, {**evidence, "first_error": failed.message})
        return repair.program


@asynccontextmanager
async def _ended_early(context: RunContext) -> AsyncIterator[None]:
    """Add the overhead to a rejection, and translate what is not the candidate's fault to the worker's exceptions."""
    try:
        yield
    except Rejected as rejected:
        rejected.overhead = context.overhead if context.overhead.seconds else None
        raise
    except Drained as drained:
        raise HandedBack(str(drained)) from drained
    except SandboxUnavailable as unavailable:
        raise Transient(str(unavailable), LOST_SECONDS) from unavailable
