"""Claims: an engineer's right to train a candidate, recorded in the archive before any work.

The attempt number is the fencing token. It is assigned by compare-and-set: a claim names the attempt after the last one
in the archive, and the log accepts the first of two concurrent claims. Redeliveries by the broker do not count as
attempts.

A program may crash the engineer and thereby the trainings of other candidates in the same process; its claim is then
never released. A candidate with an unreleased claim is a suspect: its next training runs alone in the process. After
three claims that were alone and never released the candidate is rejected. This cannot be distinguished from a machine
that fails three times while it trains the same suspect.

Something outside, such as an operator's script, may kill the sandbox's processes each time. After five such attempts in
a row the training becomes a dead letter, which an operator sees and can retry.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.chassis import metrics
from services.chassis.errors import Rejected, Superseded, Transient
from services.chassis.events import follow
from services.chassis.logs import get_logger
from services.chassis.poison import MAX_LONE_CRASHES, PoisonMessage, SuspectLock
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.sandbox import MAX_LOST, SandboxLost

SERVICE = "engineer"
WORKER = f"{socket.gethostname()}:{os.getpid()}"
RELEASE_SECONDS = 5.0
RETRY_SECONDS = 2.0
LOST_SECONDS = 10.0
"""Until work that has lost its sandbox is redelivered."""


class Claims:
    """The claims of one engineer process."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub) -> None:
        self._archive = archive
        self._lock = SuspectLock()
        self._releases: set[asyncio.Task[int]] = set()  # that are being retried

    @asynccontextmanager
    async def claim(self, job: Job, record: pb.Candidate, rung: int = 0) -> AsyncIterator[int]:
        """Claim the candidate inside the context and yield the attempt; `rung` is 0 for the search.

        An exception releases the claim, unless the candidate is at fault. Raises Rejected for a candidate that has
        crashed too many engineers, Superseded if another engineer has the claim, and PoisonMessage if its sandbox was
        lost too often.
        """
        earlier = [claim for claim in record.claims if claim.rung == rung]
        _require_few_crashes(earlier)
        alone = any(not claim.released for claim in earlier)
        attempt = len(earlier) + 1
        async with self._lock.hold(alone):
            try:
                await self._publish_claim(job, attempt, rung, alone)
                yield attempt
            except (Rejected, Superseded):
                raise
            except BaseException as error:
                reason = str(error) or type(error).__name__
                await asyncio.shield(self._release(job, attempt, rung, reason))
                ends = [*(claim.released for claim in earlier), reason]
                if isinstance(error.__cause__, SandboxLost) and ends[-MAX_LOST:] == [reason] * MAX_LOST:
                    raise PoisonMessage(f"{MAX_LOST} trainings in a row were lost: {reason}") from error
                raise

    @asynccontextmanager
    async def counting_losses(self, job: Job, record: pb.Candidate, rung: int = 0) -> AsyncIterator[None]:
        """Count the loss of the sandbox before a claim as that of a training: it might repeat without end as well."""
        try:
            yield
        except SandboxLost as lost:
            async with self.claim(job, record, rung):
                raise Transient(str(lost), LOST_SECONDS) from lost

    async def confirm(self, job: Job, event: events_pb2.Event) -> None:
        """Publish the result of a training, retrying during outages. Raises Superseded if the attempt is outdated.

        Superseded keeps the worker from acknowledging the message, which another engineer is processing.
        """
        sequence = await _publish_with_retries(job, event)
        metrics.published("candidate.trained", event)
        if (await self.record(job, sequence)).training.attempt != event.attempt:
            raise Superseded(f"attempt {event.attempt} of {event.candidate} is not the newest: its result is ignored")

    async def _publish_claim(self, job: Job, attempt: int, rung: int, alone: bool) -> None:
        event = follow(job.cause, "claimed", SERVICE, attempt, job.event.candidate, f"rung-{rung}" if rung else "")
        token = uuid.uuid4().hex
        event.candidate_claimed.CopyFrom(
            events_pb2.CandidateClaimed(worker=WORKER, resumed=attempt > 1, token=token, rung=rung, alone=alone)
        )
        sequence = await job.bus.publish(event)
        claims = [claim for claim in (await self.record(job, sequence)).claims if claim.rung == rung]
        if not claims or claims[-1].token != token:
            raise Superseded(f"attempt {attempt} of {job.event.candidate} is another engineer's")

    async def _release(self, job: Job, attempt: int, rung: int, reason: str) -> None:
        """Publish that the attempt ended without a result; retried in the background while the bus is unavailable."""
        event = follow(job.cause, "released", SERVICE, attempt, job.event.candidate, f"rung-{rung}" if rung else "")
        event.candidate_released.CopyFrom(events_pb2.CandidateReleased(reason=reason[:500], rung=rung))
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await job.bus.publish(event)
        except (Transient, TimeoutError) as error:  # an unreleased claim would count as a crash
            get_logger().warning("a claim could not be given back yet", attempt=attempt, error=str(error))
            task = asyncio.create_task(_publish_with_retries(job, event))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def record(self, job: Job, sequence: int) -> pb.Candidate:
        """The job's candidate after the event with this sequence."""
        request = archive_pb2.GetCandidateRequest(run=job.event.run, candidate=job.event.candidate, at_least=sequence)
        return await self._archive.GetCandidate(request, timeout=30)


async def _publish_with_retries(job: Job, event: events_pb2.Event) -> int:
    """Publish until the log has accepted the event, and return its sequence. Its id makes repetitions idempotent."""
    while True:
        try:
            return await job.bus.publish(event)
        except Transient as error:
            get_logger().warning("the log is out of reach", fact=event.id, error=str(error))
        await asyncio.sleep(RETRY_SECONDS)


def _require_few_crashes(claims: Sequence[pb.Claim]) -> None:
    """Raises Rejected if too many lone claims were never released."""
    crashes = [claim for claim in claims if claim.alone and not claim.released]
    if len(crashes) >= MAX_LONE_CRASHES:
        raise Rejected(
            "train",
            f"{len(crashes)} engineers died while they trained this candidate and nothing else",
            {"workers": [claim.worker for claim in crashes], "attempts": [claim.attempt for claim in crashes]},
        )
