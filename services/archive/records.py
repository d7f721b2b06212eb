"""Reads of the archive for handlers of events: the candidate's record, and cached settings and baselines of runs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc
import grpc.aio

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
    try:
        record = await archive.GetCandidate(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
    return record if record.head == event.id else None


def program_of(record: pb.Candidate) -> str:
    """The program that was trained, which may be a revision of the proposed one."""
    return record.training.program or record.proposal.program


FRESH_SECONDS = 5.0


class Runs:
    """A cache of Archive.GetRun and Archive.GetBaselines."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._settings: dict[str, tuple[float, events_pb2.RunSettings]] = {}
        self._baselines: dict[tuple[str, str], tuple[float, Sequence[pb.Candidate]]] = {}

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
