"""The investigation of suspiciously low losses: thorough probes, and a repetition of the training.

The repetition trains the root and the candidate with another seed on shifted training data, and scores both on text
that the first training and scoring did not use, and on text from another source. services/domain/fitness.py interprets
the results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from services.archive.policies import stopping_rule
from services.archive.scoring import curves_of, loss_of, program_of
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.curves import Curve
from services.domain.fitness import INVESTIGATE, PAPER, Suspicion, leakage_policy, suspicion
from services.engineer.checker import report_message
from services.engineer.data import Corpus
from services.engineer.scales import Scale
from services.engineer.stages import Stage, Stages
from services.engineer.training.result import TrainingFailed
from services.engineer.training.watcher import LEAK_SHARE, Peers, WatchSettings

MAX_CURVES = 200
"""Number of newest candidates whose curves a training is compared with."""


@dataclass(frozen=True)
class RunContext:
    """A run's settings, and what its other candidates at a stage measured, when a training begins."""

    settings: events_pb2.RunSettings
    finished: tuple[Curve, ...]
    baselines: tuple[pb.Candidate, ...] = ()
    overhead: pb.Overhead = field(default_factory=pb.Overhead)  # of the candidate's trainings since without a result


async def run_context(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, stage: str) -> RunContext:
    """Query the archive. Curves are fetched only for runs that stop trainings early."""
    status = await archive.GetRun(archive_pb2.RunRequest(run=run), timeout=30)
    reply = await archive.GetBaselines(archive_pb2.GetBaselinesRequest(run=run, stage=stage), timeout=30)
    finished: tuple[Curve, ...] = ()
    if stopping_rule(status.settings.policies) != "none":
        request = archive_pb2.ListCandidatesRequest(
            run=run, states=[pb.STATE_ARCHIVED], sort="number", reverse=True, page_size=MAX_CURVES
        )
        finished = tuple(curves_of((await archive.ListCandidates(request, timeout=30)).candidates))
    return RunContext(status.settings, finished, tuple(reply.baselines))


def peers_of(baselines: Sequence[pb.Candidate], machine: str) -> Peers:
    """Reference values from the measured baselines; the time of a step from those on devices of the name `machine`."""
    seeds = [seed for baseline in baselines for seed in baseline.training.seeds]
    steps = [
        seed.curve[-1].tokens / seed.curve[-1].step / seed.measurements.tokens_per_second
        for seed in seeds
        if seed.curve and seed.measurements.tokens_per_second and seed.measurements.device_name == machine
    ]
    losses = [seed.loss for seed in seeds if not seed.HasField("stopped")]
    return Peers(median(steps) if steps else None, min(losses) if losses else None)


def foreign_text(corpus: Corpus, baselines: Sequence[pb.Candidate], host: str) -> str | None:
    """Which baseline was measured on other data than this engineer's, in a sentence; None if none was."""
    for baseline in baselines:
        if any(seed.measurements.data_fingerprint != corpus.fingerprint for seed in baseline.training.seeds):
            by, own = baseline.training.worker, baseline.training.worker.rpartition(":")[0] == host
            lost = "; if it was this engineer, its secret file was lost and drawn anew" if own else ""
            return (
                f"{baseline.id} was measured on other text by {by}{lost}: results are compared only on the same text, "
                "so engineers need the same corpus and ASI_ENGINEER_TEXT_SEED"
            )
    return None


def watch_settings(settings: events_pb2.RunSettings, stage: Stage) -> WatchSettings:
    """The watcher's settings: memory from the scale, early stopping and the paper's leakage rule from the run."""
    policies = settings.policies
    return WatchSettings(
        memory_bytes=stage.scale.memory_bytes,
        stopping=stopping_rule(policies),
        prune_from=policies.prune_from if policies.HasField("prune_from") else WatchSettings().prune_from,
        leak=LEAK_SHARE if leakage_policy(policies.leakage) == PAPER else None,
    )


ROOT_AGAIN = "root-again"
SEED_OFFSET = 7919
"""Added to the greatest seed; searches and verifications do not use such seeds."""
Repeat = Callable[[str, str, int, Stage], Awaitable[pb.SeedResult]]
"""Trains and scores, given a name for its folder, a program, a seed and a stage. Raises TrainingFailed."""


def find_suspicion(record: pb.Candidate, loss: float, context: RunContext) -> Suspicion | None:
    """The suspicion raised by a candidate's loss, if any. None for baselines and before the root is measured."""
    root, losses = _root(context), [loss_of(baseline) for baseline in context.baselines]
    if record.kind == pb.KIND_BASELINE or root is None or (root_loss := loss_of(root)) is None:
        return None
    result = suspicion(loss, root_loss, [loss for loss in losses if loss is not None])
    return result if result.suspected else None


async def investigate(
    suspicion: Suspicion,
    program: str,
    seeds: list[int],
    stage: Stage,
    stages: Stages,
    context: RunContext,
    repeat: Repeat,
) -> pb.Investigation:
    """Probe the program and, if all probes pass and the run's policy asks for it, repeat the training."""
    report = report_message(await stages.check(stage, program, exempt_from_cost=False, thorough=True))
    failed = [verdict for verdict in report.verdicts if verdict.outcome == "fail"]
    probes = len(report.verdicts)
    result = pb.Investigation(loss=suspicion.loss, floor=suspicion.floor, failed=failed, probes=probes)
    root = _root(context)
    if failed or root is None or leakage_policy(context.settings.policies.leakage) != INVESTIGATE:
        result.unrepeated_because = "a probe fails" if failed else "the run's policy asks the probes only"
        return result
    other_stage = await stages.with_other_text(replace(stage, corpus=other_data(stage.corpus, stage.scale)))
    result.seed = max(seeds, default=0) + SEED_OFFSET
    result.data = "training data that begins elsewhere, scored on text that was neither trained nor scored on before"
    try:
        root_program = program_of(root)
        root_repeated = await repeat(ROOT_AGAIN, root_program, result.seed, other_stage)
        repeated = await repeat("again", program, result.seed, other_stage)
        result.repeated_root_loss, result.repeated_loss = root_repeated.loss, repeated.loss
        if repeated.HasField("other_text_loss") and root_repeated.HasField("other_text_loss"):
            result.other_text = repeated.other_text
            result.other_text_root_loss = root_repeated.other_text_loss
            result.other_text_loss = repeated.other_text_loss
    except TrainingFailed as failure:
        result.unrepeated_because = f"the repetition failed: {failure.message}"
    return result


def other_data(corpus: Corpus, scale: Scale) -> Corpus:
    """The training part shifted by half a window, with its end held out.

    The verification part is not used, as the statistics of later stages need text that no decision depends on.
    """
    cut = len(corpus.train) - min(len(corpus.heldout), len(corpus.train) // 4)
    shift = scale.context // 2 + 1
    fingerprint = hashlib.sha256(f"{corpus.fingerprint}:train[{shift}:{cut}]".encode()).hexdigest()
    return replace(corpus, train=corpus.train[shift:cut], heldout=corpus.train[cut:], fingerprint=fingerprint)


def _root(context: RunContext) -> pb.Candidate | None:
    names = context.settings.baselines[:1]
    return next((baseline for baseline in context.baselines if baseline.request.baseline in names), None)
