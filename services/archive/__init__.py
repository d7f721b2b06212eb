"""Clients of the Archive API, shared by services: the record of an event, settings of runs, scores and lessons; and the
artifacts that records name.

The archive itself, its backends and the gRPC service are in `services/store`; nothing here opens a database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # most commands ask no service, and gRPC takes long to import
    from services.contracts import archive_pb2, archive_pb2_grpc
    from services.contracts import candidate_pb2 as pb

PAGE = 500
PAGE_SECONDS = 60.0


async def all_candidates(
    archive: archive_pb2_grpc.ArchiveAsyncStub, request: archive_pb2.ListCandidatesRequest, limit: int | None = None
) -> list[pb.Candidate]:
    """Every page of a list from that of the request on, or its first `limit` candidates."""
    candidates: list[pb.Candidate] = []
    request.page_size = PAGE if limit is None else min(PAGE, limit)
    while True:
        page = await archive.ListCandidates(request, timeout=PAGE_SECONDS)
        candidates += page.candidates
        if not page.next_page_token or (limit is not None and len(candidates) >= limit):
            return candidates[:limit]
        request.page_token = page.next_page_token
