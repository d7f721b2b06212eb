"""Trains and scores one candidate with one seed.

`optimise` trains, and ends the training child. `score` audits the training and scores the model on held-out text in new
children. A caller that trains several seeds of a program must score after all are trained, so that no training child of
the program runs while held-out text is read.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np

from services.engineer.data import Corpus
from services.engineer.evaluation.scoring import examine, loss_on, next_loss
from services.engineer.scales import Scale
from services.engineer.training.audit import audit, require_linear
from services.engineer.training.compiled import CompileCache
from services.engineer.training.measurements import joules_of, measurements_of, require_device, trained_elements
from services.engineer.training.protocol import limits_of
from services.engineer.training.result import Metrics, TrainingFailed, TrainingResult
from services.engineer.training.session import Job, Session, Supervision, Weights
from services.engineer.training.watcher import Stop, WatchSettings
from services.sandbox import JSON, Sandbox

JOB = "services.engineer.training.child:run"
EMBEDDING = "model/embedding.weight"
"""The name of an array that no mixer makes, but torch's generator draws after those of all mixers."""


@dataclass(frozen=True)
class Trained:
    """A trained seed that is not scored yet."""

    session: Session
    weights: Weights
    decision: Stop | None
    seconds: float
    joules: float | None

    @property
    def job(self) -> Job:
        return self.session.job


async def train(
    program: str,
    seed: int,
    scale: Scale,
    corpus: Corpus,
    sandbox: Sandbox,
    *,
    on_progress: Callable[[Metrics], None] | None = None,
    stop: asyncio.Event | None = None,
    checkpoint: Path | None = None,
    watch: WatchSettings | None = None,
    compiled: CompileCache | None = None,
) -> TrainingResult:
    """Train `program` from `seed`, score it in new children, and return the results.

    When `stop` is set, a checkpoint is written after the current chunk and Drained is raised; a call with the same
    arguments resumes from it, bitwise identically on a CPU. Raises TrainingFailed (including LooksAhead).
    """
    settings = watch or WatchSettings(memory_bytes=scale.memory_bytes)
    supervision = Supervision(on_progress, stop, checkpoint, watch=settings)
    result = await score(await optimise(Job(program, seed, scale, corpus, compiled), supervision, sandbox), sandbox)
    if checkpoint is not None:
        with contextlib.suppress(OSError):  # the disk may have become read-only
            await asyncio.to_thread(checkpoint.unlink, missing_ok=True)
    return result


async def optimise(job: Job, supervision: Supervision, sandbox: Sandbox) -> Trained:
    """Run all steps. Raises TrainingFailed, Drained when stopped, and Transient on a machine without the device."""
    require_device(job.scale)
    start, energy = monotonic(), joules_of(job.scale.device)
    async with sandbox.child(JOB, limits_of(job.scale)) as child:
        session = Session(job, supervision, child, partial(next_loss, job, sandbox))
        await session.begin()
        decision = await session.run()
        if decision is not None and decision.broken:
            raise _stopped(decision, session)
        weights = await session.weights()
        await session.store_compiled()
    return Trained(session, weights, decision, monotonic() - start, joules_of(job.scale.device, energy))


def require_independent(trainings: Sequence[Trained]) -> None:
    """Raises TrainingFailed if two seeds of a program began with the same embedding.

    Their difference would not show by how much results vary, on which the statistics of a discovery rest.
    """
    beginnings = [trained.session.first.get(EMBEDDING, np.zeros(0)) for trained in trainings]
    for index, values in enumerate(beginnings):
        if any(np.array_equal(values, earlier) for earlier in beginnings[:index]):
            text = "Two seeds began with the same weights: the program must not set torch's random generator."
            raise TrainingFailed("forged", text, {"seeds": [trained.job.seed for trained in trainings]})


async def score(
    trained: Trained,
    sandbox: Sandbox,
    parameter_limit: float | None = None,
    other_text: Corpus | None = None,
    linear: bool = False,
) -> TrainingResult:
    """Audit and score a trained model. Raises TrainingFailed.

    `parameter_limit` limits the number of trained values in the arrays of the whole model. `other_text` is from another
    source, on which the model is also scored. `linear` requires that the model's cost is linear in the length.
    """
    session, job, start = trained.session, trained.job, monotonic()
    energy = joules_of(job.scale.device)
    learnt = trained_elements(session.parameters, session.first, trained.weights)
    if parameter_limit is not None and learnt > parameter_limit:
        text = f"{learnt:,} parameters were trained; {parameter_limit:,.0f} are allowed."
        raise TrainingFailed("parameters", text, {"parameters": learnt, "limit": parameter_limit})
    if session.segment is not None:
        await audit(job, sandbox, session.segment, session.parameters)
    if linear:
        await require_linear(job, sandbox, trained.weights)
    scores = await examine(job, sandbox, trained.weights)
    other_text_loss = None if other_text is None else await loss_on(job, sandbox, trained.weights, other_text)
    scoring = joules_of(job.scale.device, energy)
    joules = None if trained.joules is None or scoring is None else trained.joules + scoring
    seconds = trained.seconds + monotonic() - start
    return TrainingResult(
        **vars(scores),
        seed=job.seed,
        scale=job.scale.name,
        curve=tuple(session.curve),
        measurements=measurements_of(session, learnt, sandbox.level, joules, seconds),
        stopped=trained.decision.reason if trained.decision else None,
        other_text=None if other_text is None else other_text.name,
        other_text_loss=other_text_loss,
    )


def _stopped(decision: Stop, session: Session) -> TrainingFailed:
    last = session.history[-1]
    evidence: dict[str, JSON] = {
        "rule": decision.rule,
        "step": last.step,
        "steps": last.steps,
        "seconds": last.seconds,
        "losses": [m.train_loss if abs(m.train_loss) < float("inf") else None for m in session.history[-8:]],
    }
    return TrainingFailed("stopped", decision.reason, evidence)
