"""What the watcher compares a training with: the run's settings, and what its peers measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from services.archive.curves import curves_of
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.curves import Curve
from services.domain.leakage import PAPER, leakage_policy
from services.engineer.stages import Stage
from services.engineer.training.watcher import LEAK_SHARE, Peers, WatchSettings

MOST_CURVES = 200
"""Candidates whose curves a prediction rests on: the best ones, which are those that it is about."""


@dataclass(frozen=True)
class Surroundings:
    """Of one run and stage, as the archive stood when a training began."""

    settings: events_pb2.RunSettings
    peers: Peers
    finished: tuple[Curve, ...]
    baselines: tuple[pb.Candidate, ...] = ()


async def surroundings_of(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, stage: str) -> Surroundings:
    """Ask the archive. Curves are only fetched for a run that prunes."""
    status = await archive.GetRun(archive_pb2.RunRequest(run=run), timeout=30)
    reply = await archive.GetBaselines(archive_pb2.GetBaselinesRequest(run=run, stage=stage), timeout=30)
    finished = await _curves(archive, run) if status.settings.policies.prune else ()
    return Surroundings(status.settings, peers_of(reply.baselines), finished, tuple(reply.baselines))


def peers_of(baselines: Sequence[pb.Candidate]) -> Peers:
    """Yardsticks from the measured baselines; None where there are none yet."""
    seeds = [seed for one in baselines for seed in one.training.seeds]
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
        prune=policies.prune,
        prune_from=policies.prune_from if policies.HasField("prune_from") else WatchSettings().prune_from,
        leak=LEAK_SHARE if leakage_of(settings) == PAPER else None,
    )


def leakage_of(settings: events_pb2.RunSettings) -> str:
    """The run's policy for losses that look too good to be true."""
    return leakage_policy(settings.policies.leakage)


async def _curves(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str) -> tuple[Curve, ...]:
    request = archive_pb2.ListCandidatesRequest(run=run, states=[pb.STATE_ARCHIVED], page_size=MOST_CURVES)
    return tuple(curves_of((await archive.ListCandidates(request, timeout=30)).candidates))
