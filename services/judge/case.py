"""What a judgement is made on: the candidate, the baselines of its run, and how far it is from its relatives."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from services.archive.scoring import benchmark_of, loss_of
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.judge_rubric import Observation
from services.domain.structure import Fingerprint, fingerprint, similarity


@dataclass(frozen=True)
class Case:
    """One candidate before the judge. `root` may be the candidate itself; `anchor` is Gated DeltaNet, if measured."""

    record: pb.Candidate
    root: pb.Candidate
    anchor: pb.Candidate | None
    relatives: tuple[pb.Candidate, ...]  # the root, the parent and what else was measured before: for the distance
    baselines: tuple[pb.Candidate, ...]  # of this stage, as far as they are known
    settings: events_pb2.RunSettings


def observation(record: pb.Candidate, relatives: Iterable[pb.Candidate]) -> Observation:
    """What was measured of a candidate, means over its seeds; its distance to the nearest of `relatives`."""
    measured = [seed.measurements for seed in record.training.seeds]
    speeds = [one.tokens_per_second for one in measured if one.HasField("tokens_per_second")]
    return Observation(
        loss=loss_of(record),
        benchmark=benchmark_of(record),
        distance=distance(record, relatives),
        parameters=_mean([float(one.parameters) for one in measured if one.parameters]),
        flops_per_token=_mean([one.flops_per_token for one in measured if one.HasField("flops_per_token")]),
        seconds_per_token=1.0 / fmean(speeds) if speeds else None,
        peak_memory_bytes=_mean(
            [float(one.peak_memory_bytes) for one in measured if one.HasField("peak_memory_bytes")]
        ),
    )


def distance(record: pb.Candidate, relatives: Iterable[pb.Candidate]) -> float | None:
    """One minus the structural similarity to the nearest relative; 0 for the root itself, None where nothing parses."""
    own = _fingerprint(record)
    others = [one for relative in relatives if relative.id != record.id and (one := _fingerprint(relative))]
    if own is None:
        return None
    return 1.0 - max((similarity(own, other) for other in others), default=1.0)


def program_of(record: pb.Candidate) -> str:
    """What was really trained."""
    return record.training.program or record.proposal.program


def _fingerprint(record: pb.Candidate) -> Fingerprint | None:
    return _fingerprint_of(program_of(record))


@lru_cache(maxsize=4096)
def _fingerprint_of(program: str) -> Fingerprint | None:
    try:
        return fingerprint(program)
    except ValueError:
        return None


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None
