"""What an engineer does with a proposed candidate: claim it, train every seed, evaluate, and say what was measured.

Below `work/<run>/<candidate>/` lie a checkpoint per seed under way and the result of each seed that ended, named by
everything that it depends on, so that a kill costs no more than the last minute.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from services.archive.records import record_for
from services.chassis import metrics, worker
from services.chassis.artifacts import Artifacts
from services.chassis.errors import HandedBack, Rejected, Transient
from services.chassis.events import follow
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.engineer.claims import SERVICE, WORKER, Claims
from services.engineer.data.corpus import TokenArray
from services.engineer.investigation import Surroundings, investigate, surroundings_of, suspected, watch_settings
from services.engineer.records import keep_weights, seed_message, training_message, training_progress
from services.engineer.revision import Failure, Reviser
from services.engineer.scales import Scale, load_scale
from services.engineer.stages import Stage, Stages, overrides_for
from services.engineer.substitution import SLOW, Substitution, substitute
from services.engineer.training.compiled import CompileCache
from services.engineer.training.host import Trained, optimise, score
from services.engineer.training.measurements import versions
from services.engineer.training.model import AUTO
from services.engineer.training.result import Drained, Metrics, TrainingFailed
from services.engineer.training.session import Job as Training
from services.engineer.training.session import Supervision, Weights
from services.mixers.description import CATALOGUE, Mixer, state_size
from services.sandbox import Sandbox, SandboxUnavailable


class Workbench:
    """The files of one candidate."""

    def __init__(self, data_dir: Path, run: str, candidate: str) -> None:
        self._folder = data_dir / "work" / run / candidate

    def checkpoint(self, seed: int) -> Path:
        """Where the training of a seed keeps what it goes on from."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{seed}.checkpoint"

    def finished(self, seed: int, identity: str) -> pb.SeedResult | None:
        """The result of a seed that an earlier attempt finished under the very same conditions."""
        try:
            return pb.SeedResult.FromString(self._result(seed, identity).read_bytes())
        except (FileNotFoundError, DecodeError):
            return None

    def finish(self, identity: str, result: pb.SeedResult) -> None:
        """Keep a seed's result until the candidate's event is out."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._result(result.seed, identity), result.SerializeToString())

    def _result(self, seed: int, identity: str) -> Path:
        return self._folder / f"{seed}-{identity[:16]}.result"


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file and rename: a reader never sees half of it."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


MOST_REVISIONS = 3
T = TypeVar("T")


class Engineer:
    """Handles `candidate.proposed.<stage>`."""

    def __init__(
        self,
        sandbox: Sandbox,
        stages: Stages,
        archive: archive_pb2_grpc.ArchiveAsyncStub,
        reviser: Reviser,
        data_dir: Path,
        trainings: Callable[[str], int] = lambda _: 1,
        weights: Artifacts | None = None,
    ) -> None:
        """`trainings` says how many run at once at a stage, over all candidates and their seeds.

        Final weights are kept in `weights`, where that is given.
        """
        self._sandbox = sandbox
        self._stages = stages
        self._archive = archive
        self._reviser = reviser
        self._data_dir = data_dir
        self._trainings = trainings
        self._weights = weights
        self._claims = Claims(archive)
        self._room: dict[str, asyncio.Semaphore] = {}

    async def handle(self, job: Job) -> Sequence[events_pb2.Event]:
        """Train the candidate and publish `candidate.trained`. A candidate that cannot be trained is Rejected.

        A promoted one is trained again and becomes `candidate.verified`, whatever comes of it.
        """
        if job.event.HasField("candidate_promoted"):
            return [await self._verify(job)]
        record = await record_for(self._archive, job)
        if record is None:
            return []
        surroundings = await surroundings_of(self._archive, record.run, record.stage)
        stage = await self._stages.open(record.stage, dict(surroundings.settings.scale_overrides))
        bench = Workbench(self._data_dir, record.run, record.id)
        async with self._claims.claim(job, record) as attempt, _orderly():
            training = await self._train_with_revisions(job, record, stage, surroundings, bench)
            await self._investigate(job, record, training, stage, surroundings)
            training.attempt, training.worker = attempt, WORKER
            add_state_size(training, record, stage.scale)
            structlog.get_logger().info(
                "trained", loss=training.loss, benchmark=training.benchmark, seeds=len(training.seeds)
            )
            event = follow(job.cause, "trained", SERVICE, attempt, record.id)
            event.candidate_trained.CopyFrom(events_pb2.CandidateTrained(training=training, stage=record.stage))
            await self._claims.confirm(job, event)
        return []

    async def _investigate(
        self, job: Job, record: pb.Candidate, training: pb.Training, stage: Stage, surroundings: Surroundings
    ) -> None:
        """Add what a closer look finds where the loss looks too good to be true."""
        found = suspected(record, training.loss, surroundings)
        if found is None:
            return
        program, unpruned = training.program or record.proposal.program, replace(surroundings, finished=())

        async def repeat(work: str, program: str, seed: int, stage: Stage) -> pb.SeedResult:
            bench = Workbench(self._data_dir, record.run, f"{record.id}-{work}")
            (result,) = await self._train_seeds(job, program, [seed], stage, unpruned, bench)
            return result

        seeds = [seed.seed for seed in training.seeds]
        result = await investigate(found, program, seeds, stage, self._stages, surroundings, repeat)
        training.investigation.CopyFrom(result)

    async def _verify(self, job: Job) -> events_pb2.Event:
        """Fresh seeds, and the part of the data that nothing was ever selected by."""
        asked = job.event.candidate_promoted
        request = archive_pb2.GetCandidateRequest(
            run=job.event.run, candidate=job.event.candidate, at_least=job.sequence
        )
        record = await self._archive.GetCandidate(request, timeout=30)
        surroundings = await surroundings_of(self._archive, record.run, asked.stage)
        surroundings = replace(surroundings, finished=())  # no early stopping here
        program, overrides = record.training.program or record.proposal.program, _with_precision(asked, surroundings)
        if asked.HasField("match_parameters"):
            overrides = await overrides_for(self._stages, asked.stage, overrides, program, asked.match_parameters)
        stage = await self._stages.open(asked.stage, overrides)
        unseen = share_of(stage.corpus.verification, asked.rung, asked.rungs)
        fresh = await self._stages.with_other_text(replace(stage, corpus=replace(stage.corpus, heldout=unseen)))
        bench = Workbench(self._data_dir, record.run, f"{record.id}-rung-{asked.rung}")
        said = events_pb2.CandidateVerified(stage=asked.stage, rung=asked.rung)
        attempt = 1
        try:
            async with self._claims.claim(job, record, asked.rung or 1) as attempt, _orderly():
                seeds = await self._train_seeds(job, program, list(asked.seeds) or [1], fresh, surroundings, bench)
                said.training.CopyFrom(training_message(seeds, fresh.scale.averaged))
                for seed in said.training.seeds:
                    seed.ClearField("curve")
        except TrainingFailed as failed:
            said.reason = failed.message
        except Rejected as rejected:
            said.reason = rejected.reason
        event = follow(job.cause, "verified", SERVICE, attempt, record.id, suffix=job.event.id.split(".")[-2])
        event.candidate_verified.CopyFrom(said)
        return event

    async def _train_with_revisions(
        self, job: Job, record: pb.Candidate, stage: Stage, surroundings: Surroundings, bench: Workbench
    ) -> pb.Training:
        """Train; what fails goes to the mind for a repair, is checked and trained again, at most three times."""
        program, revisions = record.proposal.program, list[pb.Revision]()
        substitutions = await self._substitutions(program, stage)
        program = substitutions[-1].program if substitutions else program
        seed_numbers = list(record.request.seeds) or [1]
        while True:
            try:
                seeds = await self._train_seeds(job, program, seed_numbers, stage, surroundings, bench)
            except TrainingFailed as failed:
                program = await self._revise(job, record, stage, program, failed, revisions)
            else:
                training = training_message(seeds, stage.scale.averaged)
                training.revisions.extend(revisions)
                training.program = program if revisions or substitutions else ""
                training.substitutions.extend(
                    pb.Substitution(
                        function=substitution.reading.function,
                        operator=f"{substitution.reading.operator.module}.{substitution.reading.operator.name}",
                        difference=substitution.difference,
                        lengths=substitution.lengths,
                    )
                    for substitution in substitutions
                    if SLOW + substitution.reading.function in program  # a repair may have undone it
                )
                return training

    async def _substitutions(self, program: str, stage: Stage) -> list[Substitution]:
        """The program's recurrences by fla's kernels, where the scale asks for it and both compute the same."""
        if not stage.scale.substitute:
            return []
        seed = int(stage.corpus.random(f"substitution {program}").integers(1 << 31))
        taken, refused = await substitute(program, stage.scale, self._sandbox, seed)
        for refusal in refused:
            structlog.get_logger().info("not substituted", function=refusal.function, why=refusal.reason)
        return taken

    async def _train_seeds(
        self,
        job: Job,
        program: str,
        seeds: Sequence[int],
        stage: Stage,
        surroundings: Surroundings,
        bench: Workbench,
    ) -> list[pb.SeedResult]:
        """All seeds, side by side as far as there is room. Raises what the first of them in order ended with.

        None is scored before all are trained: no training child of the program is alive while held-out text is out.
        """
        room = self._room.setdefault(stage.scale.name, asyncio.Semaphore(self._trainings(stage.scale.name)))

        async def trained(seed: int) -> Trained | pb.SeedResult:
            async with room:
                training = Training(program, seed, stage.scale, stage.corpus)
                finished = bench.finished(seed, training.identity)
                return finished or await optimise(
                    training, self._supervision(job, seed, stage, surroundings, bench), self._sandbox
                )

        async def scored(training: Trained | pb.SeedResult) -> pb.SeedResult:
            async with room:
                return training if isinstance(training, pb.SeedResult) else await self._score(training, stage, bench)

        trainings = await _all(trained(seed) for seed in seeds)
        return await _all(scored(training) for training in trainings)

    def _supervision(
        self, job: Job, seed: int, stage: Stage, surroundings: Surroundings, bench: Workbench
    ) -> Supervision:
        log = structlog.get_logger()

        def on_progress(progress: Metrics) -> None:
            metrics.TRAINING_SPEED.labels(stage.scale.name).set(progress.tokens_per_second)
            worker.training(training_progress(progress))
            log.info("training", seed=seed, step=progress.step, steps=progress.steps, loss=progress.train_loss)

        return Supervision(
            on_progress,
            job.draining,
            bench.checkpoint(seed),
            watch=watch_settings(surroundings.settings, stage),
            peers=surroundings.peers,
            finished=surroundings.finished,
            compiled=CompileCache.below(self._data_dir / "data", stage.scale.device, versions()),
        )

    async def _score(self, trained: Trained, stage: Stage, bench: Workbench) -> pb.SeedResult:
        """The message of a scored seed, kept until the candidate's event is out. Raises TrainingFailed."""
        kept: list[pb.Artifact] = []

        async def keep(weights: Weights) -> None:
            if self._weights is not None:
                kept.append(await keep_weights(self._weights, weights))

        limit = stage.settings.most_parameters
        result = await score(trained, self._sandbox, keep, parameter_limit=limit, other=stage.other)
        device = result.measurements.device
        metrics.TRAINING_SECONDS.labels(stage.scale.name, device).inc(result.measurements.seconds)
        message = seed_message(result)
        for artifact in kept:
            message.checkpoint.CopyFrom(artifact)
        await asyncio.to_thread(bench.finish, trained.job.identity, message)
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
        """The program to try next. Raises Rejected when it cannot be repaired, or may not be."""
        error = f"{failed.message}\n{failed.log_tail}".strip()[-6000:]
        evidence = {"kind": failed.kind, **failed.evidence, "revisions": len(revisions), "error": error[-2000:]}
        if failed.dishonest or len(revisions) >= MOST_REVISIONS:
            raise Rejected("train", failed.message, evidence)
        history = "\n".join(f"- {revision.repair}" for revision in revisions)
        repair = await self._reviser.revise(job, record, Failure(program, error, failed.kind, history))
        if repair is None:
            raise Rejected("train", failed.message, evidence)
        revisions.append(pb.Revision(program=program, error=error, repair=repair.what))
        report = await self._stages.check(
            stage, repair.program, exempt_from_cost=record.request.baseline == "softmax_attention", thorough=False
        )
        if not report.passed:
            broken = next(verdict for verdict in report.verdicts if verdict.outcome == "fail")
            reason = f"the repaired program fails the check {broken.probe}: {broken.message}"
            raise Rejected("train", reason, {**evidence, "first_error": failed.message})
        return repair.program


def add_state_size(training: pb.Training, record: pb.Candidate, scale: Scale) -> None:
    """From the description that the program was rendered from; nothing for a program without one, or repaired."""
    proposal = record.proposal
    if training.revisions:
        return
    if proposal.HasField("description"):
        try:
            mixer = Mixer.model_validate(MessageToDict(proposal.description))
        except ValidationError:  # a researcher of another version describes what this one does not know
            return
    elif record.request.baseline in CATALOGUE:
        mixer = CATALOGUE[record.request.baseline]
    else:
        return
    for seed in training.seeds:
        seed.measurements.state_size = state_size(mixer, scale.width, scale.heads)


def _with_precision(asked: events_pb2.CandidatePromoted, surroundings: Surroundings) -> dict[str, str]:
    """A stage's overrides; it trains in the precision that the run decided on, unless it names one itself."""
    decision = surroundings.settings.scale_overrides.get("precision")
    given = {"precision": decision} if decision and load_scale(asked.stage).precision == AUTO else {}
    return {**given, **asked.scale_overrides}


@asynccontextmanager
async def _orderly() -> AsyncIterator[None]:
    """What stops a training without its fault, in the worker loop's words."""
    try:
        yield
    except Drained as drained:
        raise HandedBack(str(drained)) from drained
    except SandboxUnavailable as unavailable:
        raise Transient(str(unavailable), 10) from unavailable


async def _all(works: Iterable[Awaitable[T]]) -> list[T]:
    """Results in order, once all have ended; raises what the first of them in order raised."""
    ends = await asyncio.gather(*works, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return [end for end in ends if not isinstance(end, BaseException)]


def share_of(part: TokenArray, rung: int, rungs: int) -> TokenArray:
    """What is held out for one rung of several: they share nothing, so that none was selected by another's data."""
    length = len(part) // max(1, rungs)
    start = (max(1, rung) - 1) * length
    return part[start : start + length]
