"""Has a candidate gone on already? Asked before work that costs something.

A delivery can come again after its work was done: the acknowledgement was lost, a durable was made anew, a log was
imported. The archive would refuse a second answer; this saves the work. What the archive has not applied yet looks
earlier than it is, which costs a repetition and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection

import grpc
import grpc.aio

from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts import candidate_pb2 as pb

BEFORE_PROPOSED = frozenset({pb.STATE_REQUESTED})
BEFORE_TRAINED = frozenset({*BEFORE_PROPOSED, pb.STATE_PROPOSED, pb.STATE_TRAINING})
BEFORE_JUDGED = frozenset({*BEFORE_TRAINED, pb.STATE_TRAINED})
BEFORE_ANALYSED = frozenset({*BEFORE_JUDGED, pb.STATE_JUDGED})


async def has_gone_on(
    archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, before: Collection[pb.State.ValueType]
) -> bool:
    """Whether the candidate's state is past all of `before`. One that the archive does not know yet has not."""
    try:
        request = archive_pb2.GetCandidateRequest(run=record.run, candidate=record.id)
        known = await archive.GetCandidate(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    if record.retries > known.retries:  # its way was taken up again, which the archive does not know yet
        return False
    return known.state not in before
