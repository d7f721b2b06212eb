"""Invariants of every run, whatever its faults. Each function yields a sentence for each violation."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.contracts import archive_pb2, candidate_pb2
from services.store.port import LogRow
from services.store.replay import Replay

ONCE = ("candidate_requested", "candidate_proposed", "candidate_trained", "candidate_judged", "candidate_analysed")
MAX_EXECUTIONS = 1.1


@dataclass(frozen=True)
class Evidence:
    """What a run has left behind."""

    folder: Path
    status: archive_pb2.RunStatus
    candidates: Sequence[candidate_pb2.Candidate]
    log: Sequence[LogRow]  # as the archive remembers it
    replay: Replay
    executions: Sequence[str]
    guilty: frozenset[str]
    taken: int  # trainings that engineers had in hand when they were killed or frozen, at most
    damage: Sequence[str]  # what the archive's database finds wrong with itself


def broken(evidence: Evidence) -> list[str]:
    """Every invariant that does not hold."""
    return [
        *_run_ended(evidence),
        *_one_outcome_each(evidence),
        *_only_the_guilty_rejected(evidence),
        *_accepted_once(evidence),
        *_archive_equals_replay(evidence),
        *_executions_bounded(evidence),
        *_nothing_left(evidence),
    ]


def _run_ended(evidence: Evidence) -> Iterator[str]:
    if evidence.status.phase != "finished" or evidence.status.in_flight:
        yield f"the run is {evidence.status.phase} with {evidence.status.in_flight} in flight"


def _one_outcome_each(evidence: Evidence) -> Iterator[str]:
    outcomes = Counter(
        row.candidate for row in evidence.log if row.accepted and row.event.HasField("candidate_archived")
    )
    for candidate in evidence.candidates:
        if outcomes[candidate.id] != 1:
            yield f"{candidate.id} has {outcomes[candidate.id]} outcomes"
    if outcomes.keys() - {candidate.id for candidate in evidence.candidates}:
        yield "there are outcomes of candidates that do not exist"


def _only_the_guilty_rejected(evidence: Evidence) -> Iterator[str]:
    rejected = {
        record.id: record.rejection for record in evidence.candidates if record.state == candidate_pb2.STATE_REJECTED
    }
    for candidate in sorted(rejected.keys() - evidence.guilty):
        yield f"healthy {candidate} was rejected: {rejected[candidate].stage}: {rejected[candidate].reason}"
    for candidate in sorted(evidence.guilty - rejected.keys()):
        yield f"guilty {candidate} was not rejected"


def _accepted_once(evidence: Evidence) -> Iterator[str]:
    accepted = [row for row in evidence.log if row.accepted]
    for event_id, count in Counter(row.event.id for row in accepted).items():
        if count > 1:
            yield f"event {event_id} was accepted {count} times"
    facts = Counter((row.candidate, row.event.WhichOneof("fact")) for row in accepted)
    for (candidate, fact), count in facts.items():
        if fact in ONCE and count > 1:
            yield f"{candidate} has {count} accepted events {fact}"


def _archive_equals_replay(evidence: Evidence) -> Iterator[str]:
    if not evidence.replay.agrees:
        yield f"the archive differs from the replay: {evidence.replay.differences or 'digests differ'}"
    yield from (f"the archive is damaged: {line}" for line in evidence.damage)


def _executions_bounded(evidence: Evidence) -> Iterator[str]:
    words = [line.split() for line in evidence.executions]
    drained = {tuple(line[:2]) for line in words if line[2:]}  # what a drain ends goes on from its checkpoint
    healthy = [line for line in words if tuple(line) not in drained and not line[2:] and line[0] not in evidence.guilty]
    count = len(evidence.candidates)
    maximum = max(
        math.ceil(MAX_EXECUTIONS * count), count + evidence.taken
    )  # a short run may be hurt more than a long one
    if len(healthy) > maximum:
        yield f"{len(healthy)} trainings were begun of {count} candidates; at most {maximum} may be"


def _nothing_left(evidence: Evidence) -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                environment = (process / "environ").read_bytes()
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(evidence.folder).encode() in environment or str(evidence.folder) in command:
                yield f"process {process.name} is left: {command[:200]}"
    for file in evidence.folder.rglob("*"):
        if file.name.endswith((".tmp", "-journal")) or file.name.startswith("tmp"):
            yield f"file {file.relative_to(evidence.folder)} is left"
