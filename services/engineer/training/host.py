"""Training one candidate with one seed: the engineer's call, from program text to scores."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic

from services.domain.curves import Curve
from services.engineer.data import Corpus
from services.engineer.evaluation.examination import Examination, examine, quick_loss
from services.engineer.scales import Scale
from services.engineer.training.dialogue import limits_of
from services.engineer.training.energy import EnergyMeter
from services.engineer.training.errors import TrainingFailed
from services.engineer.training.facts import measurements_of
from services.engineer.training.ports import JSON, Message, Sandbox
from services.engineer.training.result import Metrics, TrainingResult
from services.engineer.training.session import Job, Session, Supervision, Weights
from services.engineer.training.watcher import Peers, Stop, WatchSettings

GUEST = "services.engineer.training.guest:run"


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
    peers: Peers | None = None,
    finished: Sequence[Curve] = (),
    keep: Callable[[Weights], Awaitable[None]] | None = None,
) -> TrainingResult:
    """Train `program` from `seed`, score it in fresh children, and return what was measured.

    `stop` being set checkpoints at the next chunk and raises Drained; a call with the same arguments and `checkpoint`
    goes on from there, bit for bit on a CPU. The file is removed once the result is there. `keep` gets the weights that
    were scored.
    Raises TrainingFailed (LooksAhead among them) where the candidate is at fault.
    """
    settings = watch or WatchSettings(memory_bytes=scale.memory_bytes)
    supervision = Supervision(on_progress, stop, checkpoint, watch=settings, peers=peers or Peers(), finished=finished)
    began = monotonic()
    with EnergyMeter(scale.device) as energy:
        session, ready, weights, decision = await _optimise(Job(program, seed, scale, corpus), supervision, sandbox)
        examination = await examine(Examination(session.job, sandbox, weights))
    if keep is not None:
        await keep(weights)
    if checkpoint is not None:
        await asyncio.to_thread(checkpoint.unlink, True)
    return TrainingResult(
        seed=seed,
        scale=scale.name,
        curve=tuple(session.curve),
        loss=examination.loss,
        loss_stderr=examination.loss_stderr,
        bits_per_byte=examination.bits_per_byte,
        block_losses=examination.block_losses,
        scores=examination.tasks,
        benchmark=examination.benchmark,
        measurements=measurements_of(session, ready, sandbox.level, energy.joules, monotonic() - began),
        stopped=decision.reason if decision else None,
    )


async def _optimise(
    job: Job, supervision: Supervision, sandbox: Sandbox
) -> tuple[Session, Message, Weights, Stop | None]:
    async def heldout(weights: Weights) -> float:
        return await quick_loss(Examination(job, sandbox, weights))

    async with sandbox.child(GUEST, limits_of(job.scale)) as child:
        session = Session(job, supervision, child, heldout)
        ready = await session.begin()
        decision = await session.run()
        if decision is not None and decision.broken:
            raise _stopped(decision, session)
        return session, ready, await session.weights(), decision


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
