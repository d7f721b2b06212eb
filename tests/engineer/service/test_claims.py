"""The right to train: attempts are the archive's, and only what a candidate did itself counts against it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from services.chassis.bus import Bus
from services.chassis.errors import HandedBack, Rejected, Superseded, Transient
from services.chassis.events import follow
from services.chassis.poison import MAX_LONE_CRASHES, PoisonMessage, SuspectLock
from services.chassis.worker import Job
from services.contracts import archive_pb2, events_pb2
from services.contracts import candidate_pb2 as pb
from services.engineer.claims import Claims
from services.sandbox import MAX_LOST, SandboxLost
from tests.archive_server import Store, start_run, store
from tests.engineer.service.engineer_fixtures import SETTINGS, delivery, published

GONE: list[object] = []
"""The contexts of engineers that died: one that is let go of would be left in good order."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def archive(bus: Bus) -> AsyncIterator[Store]:
    """The store of a run that has just begun."""
    async with store(bus) as opened:
        await start_run(bus, SETTINGS)
        yield opened


async def record_of(archive: Store, job: Job) -> pb.Candidate:
    """The candidate as the archive knows it once it has applied the whole log."""
    newest = await job.bus.last_sequence()
    request = archive_pb2.GetCandidateRequest(run="r1", candidate=job.event.candidate, at_least=newest)
    return await archive.stub.GetCandidate(request, timeout=20)


async def die(archive: Store, job: Job) -> pb.Candidate:
    """An engineer claims the candidate and is never heard of again; the record afterwards."""
    claim = Claims(archive.stub).claim(job, await record_of(archive, job))
    GONE.append(claim)
    await claim.__aenter__()
    return await record_of(archive, job)


async def test_an_attempt_follows_the_one_that_the_archive_knows(bus: Bus, archive: Store) -> None:
    """Though the broker says each time that this is the first delivery: the consumer was made anew."""
    job = await delivery(bus)
    attempts = []
    for _ in range(3):
        with suppress(HandedBack):
            async with Claims(archive.stub).claim(job, await record_of(archive, job)) as attempt:
                attempts.append(attempt)
                raise HandedBack("the service stops")

    assert attempts == [1, 2, 3]
    assert [claim.released for claim in (await record_of(archive, job)).claims] == ["the service stops"] * 3


@pytest.mark.parametrize("outage", [HandedBack("draining"), Transient("the store is away"), KeyError("a bug")])
async def test_failures_of_the_system_never_count_against_a_candidate(
    bus: Bus, archive: Store, outage: Exception
) -> None:
    """However often: drains, outages, and errors of ours."""
    job = await delivery(bus)
    for _ in range(MAX_LONE_CRASHES + 8):
        with suppress(type(outage)):
            async with Claims(archive.stub).claim(job, await record_of(archive, job)):
                raise outage

    record = await record_of(archive, job)
    assert not any(claim.alone for claim in record.claims)
    async with Claims(archive.stub).claim(job, record) as attempt:
        assert attempt == MAX_LONE_CRASHES + 9


async def test_a_training_whose_sandbox_is_lost_each_time_becomes_a_dead_letter(bus: Bus, archive: Store) -> None:
    """It would be repeated without end; other failures in between are no reason."""
    job, lost = await delivery(bus), SandboxLost("a supervisor was killed")
    ends: list[type[BaseException]] = []
    for cause in (*[lost] * (MAX_LOST - 1), TimeoutError(), *[lost] * (MAX_LOST + 1)):
        with pytest.raises(Exception, match=r"was killed|away") as raised:
            async with Claims(archive.stub).claim(job, await record_of(archive, job)):
                raise Transient("away" if cause is not lost else str(lost)) from cause
        ends.append(raised.type)

    assert ends == [Transient] * (2 * MAX_LOST - 1) + [PoisonMessage] * 2


async def test_work_that_is_lost_before_it_is_claimed_counts_as_a_lost_training(bus: Bus, archive: Store) -> None:
    """As while a stage is opened: it would be repeated without end."""
    job, ends = await delivery(bus), list[type[BaseException]]()
    for _ in range(MAX_LOST):
        with pytest.raises(Exception, match="was killed") as raised:
            async with Claims(archive.stub).counting_losses(job, await record_of(archive, job)):
                raise SandboxLost("a supervisor was killed")
        ends.append(raised.type)

    assert ends == [Transient] * (MAX_LOST - 1) + [PoisonMessage]


async def test_of_two_claims_at_once_one_gets_the_attempt(bus: Bus, archive: Store) -> None:
    """The other leaves the delivery alone: an answer of its own would be taken for the winner's."""
    job = await delivery(bus)
    record = await record_of(archive, job)
    async with Claims(archive.stub).claim(job, record):
        with pytest.raises(Superseded):
            async with Claims(archive.stub).claim(job, record):
                pass

    assert [claim.attempt for claim in (await record_of(archive, job)).claims] == [1]


async def test_a_result_of_an_older_attempt_is_not_acknowledged(bus: Bus, archive: Store) -> None:
    """Its engineer was away for so long that another one has the work."""
    job = await delivery(bus)
    await die(archive, job)
    await die(archive, job)
    late = follow(job.cause, "trained", "engineer", 1, job.event.candidate)
    late.candidate_trained.CopyFrom(
        events_pb2.CandidateTrained(training=pb.Training(loss=1.0, attempt=1), stage="tiny")
    )
    with pytest.raises(Superseded):
        await Claims(archive.stub).confirm(job, late)

    assert not (await record_of(archive, job)).HasField("training")


async def test_a_candidate_that_kills_its_engineers_is_found(bus: Bus, archive: Store) -> None:
    """The first death is not held against it: another candidate in the same process may have been the reason."""
    job = await delivery(bus)
    records = [await die(archive, job) for _ in range(MAX_LONE_CRASHES + 1)]

    assert [claim.alone for claim in records[-1].claims] == [False] + [True] * MAX_LONE_CRASHES
    with pytest.raises(Rejected, match="3 engineers died") as rejected:
        async with Claims(archive.stub).claim(job, records[-1]):
            pass
    assert rejected.value.evidence["attempts"] == [2, 3, 4]


async def test_an_innocent_candidate_in_the_same_process_is_still_trained(bus: Bus, archive: Store) -> None:
    """It died once with another candidate, and is trained successfully alone."""
    poison, innocent = await delivery(bus), await delivery(bus, candidate="c000002")
    for job in (poison, innocent):
        await die(archive, job)
    claims = Claims(archive.stub)
    async with claims.claim(innocent, await record_of(archive, innocent)) as attempt:
        record = await record_of(archive, innocent)

    assert attempt == 2
    assert record.claims[-1].alone


async def test_a_suspect_candidate_is_trained_alone() -> None:
    """Nothing else is in hand while it is trained, and it is not passed over for ever."""
    room, order = SuspectLock(), list[str]()
    end = asyncio.Event()

    async def train(name: str, alone: bool) -> None:
        async with room.hold(alone):
            order.append(f"{name} in")
            await end.wait() if name == "first" else await asyncio.sleep(0)
            order.append(f"{name} out")

    tasks = []
    for name, alone in (("first", False), ("suspect", True), ("third", False)):
        tasks.append(asyncio.create_task(train(name, alone)))
        await asyncio.sleep(0)
    end.set()
    await asyncio.gather(*tasks)

    assert order == ["first in", "first out", "suspect in", "suspect out", "third in", "third out"]


async def test_a_claim_that_could_not_be_reported_counts_as_returned_later(bus: Bus, archive: Store) -> None:
    """Any later event of a worker shows that it was alive."""
    job = await delivery(bus)
    await die(archive, job)
    late = follow(job.cause, "released", "engineer", 1, job.event.candidate)
    late.candidate_released.reason = "the bus was away"
    await bus.publish(late)
    record = await record_of(archive, job)
    async with Claims(archive.stub).claim(job, record) as attempt:
        pass

    assert attempt == 2
    assert not (await record_of(archive, job)).claims[-1].alone
    assert len(await published(bus, "claimed")) == 2
