"""Reads of the archive for handlers of events: the candidate's record with its relatives, and a cache of what is common
to the candidates of a run.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import grpc
import grpc.aio

from services.chassis.errors import Transient
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb


async def record_for(archive: archive_pb2_grpc.ArchiveAsyncStub, job: Job) -> pb.Candidate | None:
    """The candidate after the job's event; None if the job needs no work.

    The archive replies once it has applied the event. If the work was done before (the acknowledgement was lost, the
    durable consumer was recreated, a log was imported) or the archive refused the event, the candidate's head is
    another event, or it does not exist, and costly work is not repeated.

    Raises the errors of the call, which are transient while the archive lags or is unreachable.
    """
    event = job.event
    request = archive_pb2.GetCandidateRequest(run=event.run, candidate=event.candidate, at_least=job.sequence)
    record = await _known(archive.GetCandidate(request, timeout=30))
    return record if record and record.head == event.id else None


async def record_with_seeds(archive: archive_pb2_grpc.ArchiveAsyncStub, job: Job) -> archive_pb2.DrawSeedsReply | None:
    """As `record_for`, with the parent and references that the candidate draws; it is the reply's `record`."""
    event = job.event
    request = archive_pb2.DrawSeedsRequest(run=event.run, candidate=event.candidate, at_least=job.sequence)
    reply = await _known(archive.DrawSeeds(request, timeout=30))
    if reply and not reply.HasField("record"):
        raise Transient(_OLDER)
    return reply if reply and reply.record.head == event.id else None


async def record_with_sources(
    archive: archive_pb2_grpc.ArchiveAsyncStub, job: Job
) -> tuple[pb.Candidate, Sequence[pb.Candidate]] | None:
    """As `record_for`, with the candidate's parent and references."""
    event = job.event
    request = archive_pb2.GetCandidatesRequest(
        run=event.run, candidates=[event.candidate], at_least=job.sequence, sources=True
    )
    reply = await _known(archive.GetCandidates(request, timeout=30))
    if reply and reply.applied < job.sequence:
        raise Transient(_OLDER)
    if not reply or not reply.candidates or reply.candidates[0].head != event.id:
        return None
    return reply.candidates[0], reply.candidates[1:]


async def record_with_relatives(
    archive: archive_pb2_grpc.ArchiveAsyncStub, job: Job, siblings: int
) -> archive_pb2.RelativesReply | None:
    """As `record_for`, with the candidate's ancestors and so many siblings; the candidate is the reply's `record`."""
    event = job.event
    request = archive_pb2.GetRelativesRequest(
        run=event.run, candidate=event.candidate, siblings=siblings, at_least=job.sequence
    )
    reply = await _known(archive.GetRelatives(request, timeout=30))
    if reply and not reply.HasField("record"):
        raise Transient(_OLDER)
    return reply if reply and reply.record.head == event.id else None


_OLDER = "the store is older than this service and ignored a part of the question: update the store first"
Reply = TypeVar("Reply")


async def _known(call: Awaitable[Reply]) -> Reply | None:
    """The reply; None if the archive does not know the candidate."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise


FRESH_SECONDS = 5.0


class Runs:
    """A cache of the settings, baselines and best candidates of runs."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._settings: dict[str, tuple[float, events_pb2.RunSettings]] = {}
        self._baselines: dict[tuple[str, str], tuple[float, Sequence[pb.Candidate]]] = {}
        self._best: dict[tuple[str, str], tuple[float, Sequence[pb.Candidate]]] = {}

    async def settings(self, run: str) -> events_pb2.RunSettings:
        """The settings of a run, at most five seconds old. Raises the errors of the call."""
        updated, settings = self._settings.get(run, (0.0, None))
        if settings is None or time.monotonic() - updated > FRESH_SECONDS:
            settings = (await self._archive.GetRun(archive_pb2.RunRequest(run=run), timeout=30)).settings
            self._settings[run] = (time.monotonic(), settings)
        return settings

    async def baselines(self, run: str, stage: str) -> Sequence[pb.Candidate]:
        """The baselines of a run's stage, root first, which must not be modified; once all have ended, at most five
        seconds old. Raises the errors of the call."""
        updated, baselines = self._baselines.get((run, stage), (0.0, None))
        if baselines is None or time.monotonic() - updated > FRESH_SECONDS:
            request = archive_pb2.GetBaselinesRequest(run=run, stage=stage)
            reply = await self._archive.GetBaselines(request, timeout=30)
            baselines = tuple(reply.baselines)
            if not reply.complete:
                return baselines
            self._baselines[run, stage] = (time.monotonic(), baselines)
        return baselines

    async def best(self, run: str, stage: str) -> pb.Candidate | None:
        """The lowest loss of a run's stage, without its program and prose, at most five seconds old; None without a
        measured candidate. Raises the errors of the call."""
        updated, found = self._best.get((run, stage), (0.0, ()))
        if time.monotonic() - updated > FRESH_SECONDS:
            request = archive_pb2.ListCandidatesRequest(run=run, sort="loss", stage=stage, page_size=1, slim=True)
            found = (await self._archive.ListCandidates(request, timeout=30)).candidates
            self._best[run, stage] = (time.monotonic(), found)
        return next((record for record in found if record.training.HasField("loss")), None)
