"""What the proposals of each model gained, told to the mind that chooses between models.

The archive is the memory: a service that starts anew tells its mind everything again, and a mind counts a candidate
once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping

import grpc.aio

from services.chassis.logs import get_logger
from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm.port import Learner, Role
from services.llm.recorded import gained

FRESH_SECONDS = 60.0
PAGE = 100


class Lessons:
    """Reads a run's scored candidates once in a while."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._taught: dict[str, float] = {}

    async def teach(self, mind: Learner, run: str) -> None:
        """Reward the model behind each proposal with the fitness gained over its parent, at least 0.

        An archive that does not answer leaves the mind as wise as it was.
        """
        if time.monotonic() - self._taught.get(run, -FRESH_SECONDS) < FRESH_SECONDS:
            return
        self._taught[run] = time.monotonic()
        try:
            records = {one.id: one async for one in self._scored(run)}
        except grpc.aio.AioRpcError as error:
            get_logger().warning("no lessons for the choice of models", reason=error.details())
            return
        for record in records.values():
            model, gain = gained(record.calls, Role.PROPOSE), gain_of(record, records)
            if model is not None and gain is not None:
                await mind.reward(Role.PROPOSE, model, f"{run}/{record.id}", gain)

    async def _scored(self, run: str) -> AsyncIterator[pb.Candidate]:
        request = archive_pb2.ListCandidatesRequest(run=run, states=[pb.STATE_ARCHIVED], page_size=PAGE)
        while True:
            reply = await self._archive.ListCandidates(request, timeout=60)
            for candidate in reply.candidates:
                yield candidate
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token


def gain_of(record: pb.Candidate, records: Mapping[str, pb.Candidate]) -> float | None:
    """Fitness over the parent's, at least 0; None where either of them has none."""
    parent = records.get(record.proposal.parent)
    if parent is None or not (record.verdict.HasField("fitness") and parent.verdict.HasField("fitness")):
        return None
    return max(0.0, record.verdict.fitness.value - parent.verdict.fitness.value)
