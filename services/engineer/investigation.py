"""A closer look at a loss that looks too good to be true: thorough probes, and the whole training once more.

The repetition trains the root and the candidate with another seed, on training data that begins elsewhere, and scores
both on text that neither the first training nor the first scoring used, and on text from another source. What its
findings mean is decided by services/domain/fitness.py.

`Surroundings` is what the watcher compares a training with: the run's settings, and what its peers measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from services.archive.policies import stopping_rule
from services.archive.scoring import curves_of, loss_of
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

MOST_CURVES = 200
"""The newest candidates, whose curves a training is compared with."""


@dataclass(frozen=True)
class Surroundings:
    """Of one run and stage, as the archive stood when a training began."""

    settings: events_pb2.RunSettings
    peers: Peers
    finished: tuple[Curve, ...]
    baselines: tuple[pb.Candidate, ...] = ()


async def surroundings_of(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, stage: str) -> Surroundings:
    """Ask the archive. Curves are only fetched for a run that stops trainings early."""
    status = await archive.GetRun(archive_pb2.RunRequest(run=run), timeout=30)
    reply = await archive.GetBaselines(archive_pb2.GetBaselinesRequest(run=run, stage=stage), timeout=30)
    finished = await _curves(archive, run) if stopping_rule(status.settings.policies) != "none" else ()
    return Surroundings(status.settings, peers_of(reply.baselines), finished, tuple(reply.baselines))


def peers_of(baselines: Sequence[pb.Candidate]) -> Peers:
    """Yardsticks from the measured baselines; None where there are none yet."""
    seeds = [seed for baseline in baselines for seed in baseline.training.seeds]
    steps = [
        seed.curve[-1].tokens / seed.curve[-1].step / seed.measurements.tokens_per_second
        for seed in seeds
        if seed.curve and seed.measurements.tokens_per_second
    ]
    losses = [seed.loss for seed in seeds if not seed.HasField("stopped")]
    return Peers(median(steps) if steps else None, min(losses) if losses else None)


def watch_settings(settings: events_pb2.RunSettings, stage: Stage) -> WatchSettings:
    """The watcher's rules: memory from the scale, pruning and the paper's leakage rule where the run asks for them."""
    policies = settings.policies
    return WatchSettings(
        memory_bytes=stage.scale.memory_bytes,
        stopping=stopping_rule(policies),
        prune_from=policies.prune_from if policies.HasField("prune_from") else WatchSettings().prune_from,
        leak=LEAK_SHARE if leakage_of(settings) == PAPER else None,
    )


def leakage_of(settings: events_pb2.RunSettings) -> str:
    """The run's policy for losses that look too good to be true."""
    return leakage_policy(settings.policies.leakage)


async def _curves(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str) -> tuple[Curve, ...]:
    request = archive_pb2.ListCandidatesRequest(
        run=run, states=[pb.STATE_ARCHIVED], sort="number", reverse=True, page_size=MOST_CURVES
    )
    return tuple(curves_of((await archive.ListCandidates(request, timeout=30)).candidates))


SEED_DISTANCE = 7919
"""Added to the last seed: no seed of a search or a verification lies there."""
Repeat = Callable[[str, str, int, Stage], Awaitable[pb.SeedResult]]
"""(name of the work, program, seed, stage) to what was measured. Raises TrainingFailed."""


def suspected(record: pb.Candidate, loss: float, surroundings: Surroundings) -> Suspicion | None:
    """Whether the loss of a candidate has to be looked at; None for a baseline and before the root is measured."""
    root, losses = _root(surroundings), [loss_of(baseline) for baseline in surroundings.baselines]
    if record.kind == pb.KIND_BASELINE or root is None or (root_loss := loss_of(root)) is None:
        return None
    found = suspicion(loss, root_loss, [loss for loss in losses if loss is not None])
    return found if found.suspected else None


async def investigate(
    found: Suspicion,
    program: str,
    seeds: list[int],
    stage: Stage,
    stages: Stages,
    surroundings: Surroundings,
    repeat: Repeat,
) -> pb.Investigation:
    """Probe, and repeat where the probes find nothing and the run's policy asks for it."""
    report = report_message(await stages.check(stage, program, exempt_from_cost=False, thorough=True))
    failed = [verdict for verdict in report.verdicts if verdict.outcome == "fail"]
    result = pb.Investigation(loss=found.loss, floor=found.floor, failed=failed, probes=len(report.verdicts))
    root = _root(surroundings)
    if failed or root is None or leakage_of(surroundings.settings) != INVESTIGATE:
        result.unrepeated_because = "a probe fails" if failed else "the run's policy asks the probes only"
        return result
    again = await stages.with_other_text(replace(stage, corpus=other_data(stage.corpus, stage.scale)))
    result.seed = max(seeds, default=0) + SEED_DISTANCE
    result.data = "training data that begins elsewhere, scored on text that was neither trained nor scored on before"
    try:
        root_program = root.training.program or root.proposal.program
        root_again = await repeat("root-again", root_program, result.seed, again)
        repeated = await repeat("again", program, result.seed, again)
        result.repeated_root_loss, result.repeated_loss = root_again.loss, repeated.loss
        if repeated.HasField("other_text_loss") and root_again.HasField("other_text_loss"):
            result.other_text = repeated.other_text
            result.other_text_root_loss = root_again.other_text_loss
            result.other_text_loss = repeated.other_text_loss
    except TrainingFailed as failed_again:
        result.unrepeated_because = f"the repetition failed: {failed_again.message}"
    return result


def other_data(corpus: Corpus, scale: Scale) -> Corpus:
    """Training data whose windows begin elsewhere, and as much of its end held out as before.

    The verification part is left alone: the statistics of later stages need text that no decision has seen.
    """
    cut = len(corpus.train) - min(len(corpus.heldout), len(corpus.train) // 4)
    shift = scale.context // 2 + 1
    fingerprint = hashlib.sha256(f"{corpus.fingerprint}:train[{shift}:{cut}]".encode()).hexdigest()
    return replace(corpus, train=corpus.train[shift:cut], heldout=corpus.train[cut:], fingerprint=fingerprint)


def _root(surroundings: Surroundings) -> pb.Candidate | None:
    names = surroundings.settings.baselines[:1]
    return next((baseline for baseline in surroundings.baselines if baseline.request.baseline in names), None)
