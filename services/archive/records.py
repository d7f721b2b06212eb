"""The record that an event left behind, for whoever handles the event."""

from __future__ import annotations

import grpc
import grpc.aio

from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts import candidate_pb2 as pb


async def record_for(archive: archive_pb2_grpc.ArchiveAsyncStub, job: Job) -> pb.Candidate | None:
    """The candidate as the job's event left it; None where nothing is to be done.

    The archive answers once it has applied the event. A delivery may come again after its work was done (the
    acknowledgement was lost, a durable was made anew, a log was imported), and the archive may have refused the event:
    then the candidate's head is another event, or there is no such candidate, and costly work is not repeated.

    Raises what the call raises: while the archive lags or is away that is a transient error.
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
