"""Has a candidate gone on already? Asked before work that costs something.

A delivery can come again after its work was done: the acknowledgement was lost, a durable was made anew, a log was
imported. The archive would refuse a second answer; this saves the work. What the archive has not applied yet looks
earlier than it is, which costs a repetition and nothing else. The first delivery of a young event is not asked about:
nobody can have answered it.
"""

from __future__ import annotations

import time
from collections.abc import Collection

import grpc
import grpc.aio

from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts import candidate_pb2 as pb

BEFORE_PROPOSED = frozenset({pb.STATE_REQUESTED})
BEFORE_TRAINED = frozenset({*BEFORE_PROPOSED, pb.STATE_PROPOSED, pb.STATE_TRAINING})
BEFORE_JUDGED = frozenset({*BEFORE_TRAINED, pb.STATE_TRAINED})
BEFORE_ANALYSED = frozenset({*BEFORE_JUDGED, pb.STATE_JUDGED})
YOUNG_SECONDS = 60.0  # less than it takes to publish an event twice: the stream takes its id once in ten minutes


async def has_gone_on(
    archive: archive_pb2_grpc.ArchiveAsyncStub, job: Job, before: Collection[pb.State.ValueType]
) -> bool:
    """Whether the job's candidate is past all of the states `before`. One that the archive does not know has not."""
    event = job.event
    if job.attempt == 1 and time.time() - event.time.seconds < YOUNG_SECONDS:
        return False
    try:
        request = archive_pb2.GetCandidateRequest(run=event.run, candidate=event.candidate)
        known = await archive.GetCandidate(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    if event.so_far.retries > known.retries:  # its way was taken up again, which the archive does not know yet
        return False
    return known.state not in before
