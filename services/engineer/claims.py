"""Claims: the right to train a candidate, taken in the archive before any work and given back when nothing comes of it.

The attempt number is the fencing token. It comes from the archive, by compare-and-set: a claim names the attempt after
the last one that the archive knows, and of two claims at once the log accepts the first. How often the broker has
delivered the work plays no part, so neither outages nor drains nor a consumer that was made anew count against a
candidate.

A program may kill the engineer that trains it, and the other candidates in the same process with it. Such a claim ends
without a word. One that did makes its candidate a suspect: its next training has the process for itself, which spares
the others, and a claim that ended without a word while it was alone is held against it. After three of them the
candidate is rejected. What this cannot tell apart is a machine that fails three times while it trains one suspect
alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.chassis import metrics
from services.chassis.deaths import MOST_LONE_CRASHES, SuspectLock
from services.chassis.errors import Rejected, Superseded, Transient
from services.chassis.events import follow
from services.chassis.logs import get_logger
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb

SERVICE = "engineer"
WORKER = f"{socket.gethostname()}:{os.getpid()}"
RELEASE_SECONDS = 5.0
INSIST_SECONDS = 2.0


class Claims:
    """The claims of one engineer process."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._lock = SuspectLock()
        self._late: set[asyncio.Task[int]] = set()  # claims that could not be given back at once

    @asynccontextmanager
    async def held(self, job: Job, record: pb.Candidate, rung: int = 0) -> AsyncIterator[int]:
        """The attempt that is this process's own while the context lasts; `rung` is 0 for the search.

        A context that is left by an error gives the claim back, unless the candidate is at fault. Raises Rejected for a
        candidate that has killed too many engineers, and Superseded where another engineer was faster.
        """
        earlier = [claim for claim in record.claims if claim.rung == rung]
        _require_innocence(earlier)
        alone = any(not claim.released for claim in earlier)
        attempt = len(earlier) + 1
        async with self._lock.hold(alone):
            try:
                await self._claim(job, attempt, rung, alone)
                yield attempt
            except (Rejected, Superseded):
                raise
            except BaseException as error:
                reason = str(error) or type(error).__name__
                await asyncio.shield(self._release(job, attempt, rung, reason))
                raise

    async def confirm(self, job: Job, event: events_pb2.Event) -> None:
        """Publish the result of a training as soon as the log takes it. Raises Superseded where the archive refuses it.

        A result that waits out an outage costs less than the same training again. A worker that acknowledged the work
        after a refusal would take it from the one who has it now.
        """
        sequence = await _publish_with_retries(job, event)
        metrics.published("candidate.trained", event)
        if (await self._record(job, sequence)).training.attempt != event.attempt:
            raise Superseded(f"attempt {event.attempt} of {event.candidate} is not the newest: it does not count")

    async def _claim(self, job: Job, attempt: int, rung: int, alone: bool) -> None:
        claim = follow(job.cause, "claimed", SERVICE, attempt, job.event.candidate, f"rung-{rung}" if rung else "")
        said = events_pb2.CandidateClaimed(
            worker=WORKER, resumed=attempt > 1, token=uuid.uuid4().hex, rung=rung, alone=alone
        )
        claim.candidate_claimed.CopyFrom(said)
        sequence = await job.bus.publish(claim)
        newest = [claim for claim in (await self._record(job, sequence)).claims if claim.rung == rung][-1:]
        if not newest or newest[0].token != said.token:
            raise Superseded(f"attempt {attempt} of {job.event.candidate} is another engineer's")

    async def _release(self, job: Job, attempt: int, rung: int, reason: str) -> None:
        """Say that nothing comes of a claim, through no fault of the candidate; while the bus is away, as soon as it is
        back."""
        event = follow(job.cause, "released", SERVICE, attempt, job.event.candidate, f"rung-{rung}" if rung else "")
        event.candidate_released.CopyFrom(events_pb2.CandidateReleased(reason=reason[:500], rung=rung))
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await job.bus.publish(event)
        except (Transient, TimeoutError) as error:  # an outage is not to be taken for a death
            get_logger().warning("a claim could not be given back yet", attempt=attempt, error=str(error))
            task = asyncio.create_task(_publish_with_retries(job, event))
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    async def _record(self, job: Job, sequence: int) -> pb.Candidate:
        request = archive_pb2.GetCandidateRequest(run=job.event.run, candidate=job.event.candidate, at_least=sequence)
        return await self._archive.GetCandidate(request, timeout=30)


async def _publish_with_retries(job: Job, event: events_pb2.Event) -> int:
    """Publish until the log has the event: its sequence. The same event twice is one, by its id."""
    while True:
        try:
            return await job.bus.publish(event)
        except Transient as error:
            get_logger().warning("the log is out of reach", fact=event.id, error=str(error))
        await asyncio.sleep(INSIST_SECONDS)


def _require_innocence(claims: Sequence[pb.Claim]) -> None:
    """Raises Rejected where too many claims ended without a word while nothing else was trained beside them."""
    deadly = [claim for claim in claims if claim.alone and not claim.released]
    if len(deadly) >= MOST_LONE_CRASHES:
        raise Rejected(
            "train",
            f"{len(deadly)} engineers died while they trained this candidate and nothing else",
            {"workers": [claim.worker for claim in deadly], "attempts": [claim.attempt for claim in deadly]},
        )
