"""Every service does its own work with its own credentials, and nothing else, against a real nats-server."""

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from deploy.make_env import RIGHTS
from services.chassis.bus import Bus
from services.chassis.bus.access import ADMINISTRATOR, USERS, inbox_of, public_key
from services.chassis.bus.subjects import fact_of
from services.chassis.bus.topology import durables_of, topology
from services.chassis.errors import Denied, SettingsError
from services.chassis.events import Cause, first, follow
from services.contracts import events_pb2 as pb
from tests.chassis.nats_server import NatsServer

HANDLERS = [user for user in USERS if durables_of(user)]


@pytest_asyncio.fixture
async def admin(guarded: NatsServer) -> AsyncIterator[Bus]:
    """The administrator, on empty streams."""
    async with Bus(guarded.settings(ADMINISTRATOR), "admin") as connected:
        await connected.set_up()
        yield connected


def every_fact() -> list[pb.Event]:
    """One event of each kind that the contract knows; a dead letter of a candidate and one of a run."""
    start = first("r1", "started", "console")
    start.run_started.settings.scale = "tiny"
    events = []
    for number, field in enumerate(pb.Event.DESCRIPTOR.oneofs_by_name["fact"].fields):
        about = ["c000001", *([""] if field.name == "dead" else [])]
        for candidate in about:
            event = follow(Cause.published(start), f"{field.name}{number}", "tests", 1, candidate)
            getattr(event, field.name).SetInParent()
            if field.name in ("candidate_proposed", "candidate_promoted"):
                getattr(event, field.name).stage = "tiny"
            events.append(event)
    return events


def test_every_fact_of_the_contract_has_a_user_that_may_publish_it() -> None:
    """A new fact without a row in the table would be refused in production only."""
    spoken = {fact for rights in RIGHTS.values() for fact in rights.facts}

    assert spoken == {fact_of(event) for event in every_fact()}


@pytest.mark.parametrize("user", HANDLERS)
async def test_a_service_publishes_its_own_facts_and_no_others(guarded: NatsServer, admin: Bus, user: str) -> None:
    """The whole contract, fact by fact."""
    allowed, denied = set(), set()
    async with Bus(guarded.settings(user), user) as bus:
        for event in every_fact():
            try:
                await bus.publish(event)
            except Denied:
                denied.add(fact_of(event))
            else:
                allowed.add(fact_of(event))

    assert allowed == set(RIGHTS[user].facts)
    assert not allowed & denied


@pytest.mark.parametrize("user", HANDLERS)
async def test_a_service_reads_its_own_durables_and_no_others(guarded: NatsServer, admin: Bus, user: str) -> None:
    """Pull, acknowledge, see that the server knows it; another's work stays out of sight."""
    mine = durables_of(user)
    for event in every_fact():
        await admin.publish(event)
    async with Bus(guarded.settings(user), user) as bus:
        assert await bus.compare(mine) == []
        for durable in mine:
            consumer = await bus.consumer(durable)
            for delivery in await consumer.fetch(1, wait=0.3):
                await delivery.heartbeat()
                await delivery.acknowledge()
            for _ in range(250):
                if not (await bus.depth(durable)).in_hand:
                    break
                await asyncio.sleep(0.02)
            assert not (await bus.depth(durable)).in_hand
        for durable in {spec.durable for spec in topology()[1]} - set(mine):
            with pytest.raises(Denied, match="publish to"):
                await (await bus.consumer(durable)).fetch(1, wait=0.3)


async def test_only_the_store_and_the_console_read_the_log(guarded: NatsServer, admin: Bus) -> None:
    """An engineer that runs strangers' programs has no business in other candidates' records."""
    sequence = await admin.publish(every_fact()[0])
    for user in ("store", "console"):
        async with Bus(guarded.settings(user), user) as bus:
            assert [message.sequence async for message in bus.read_log()] == [sequence]
            assert (await bus.message_at(sequence)).body
    for user in ("researcher", "engineer", "judge", "analyst"):
        async with Bus(guarded.settings(user), user) as bus:
            with pytest.raises(Denied):
                await bus.message_at(sequence)
            with pytest.raises(Denied):
                assert [message async for message in bus.read_log()]


async def test_no_service_creates_or_removes_streams(guarded: NatsServer, admin: Bus) -> None:
    """Set-up is the administrator's; a console only sees what differs."""
    for user in (*HANDLERS, "console"):
        async with Bus(guarded.settings(user), user) as bus:
            with pytest.raises(Denied):
                await bus.remove_stream("EVENTS")
    async with Bus(guarded.settings("console"), "console") as bus:
        assert await bus.compare() == []
        await admin.remove_stream("ADVISORIES")
        with pytest.raises(Denied, match=r"stream\.create"):
            await bus.set_up()


async def test_a_forged_verdict_is_refused_at_once_and_logged_as_denied(guarded: NatsServer, admin: Bus) -> None:
    """An engineer that scores its own candidates: an exception instead of a time-out, and a line to alert on."""
    (forged,) = [event for event in every_fact() if fact_of(event) == "candidate.judged" and event.candidate]
    async with Bus(guarded.settings("engineer"), "engineer") as bus:
        with capture_logs() as logs, pytest.raises(Denied, match=r"asi\.v1\.r1\.candidate\.judged"):
            await bus.publish(forged)

    assert await admin.last_sequence() == 0
    (entry,) = [line for line in logs if line.get("denied")]
    assert entry["event"] == "NATS denied an operation"
    assert (entry["operation"], entry["subject"]) == ("publish", "asi.v1.r1.candidate.judged")


@pytest.mark.parametrize("subject", ["_INBOX.>", "asi.v1.>", "$JS.EVENT.>", "judge"])
async def test_a_user_can_subscribe_to_its_own_inbox_only(guarded: NatsServer, subject: str) -> None:
    """Answers and deliveries are read by who asked for them: a client of its own making gets refusals only."""
    refused: asyncio.Queue[str] = asyncio.Queue()

    async def report(error: Exception) -> None:
        await refused.put(str(error))

    pattern = f"{inbox_of(public_key(guarded.seeds['judge']))}.>" if subject == "judge" else subject
    client = await nats.connect(guarded.url, nkeys_seed_str=guarded.seeds["engineer"], error_cb=report)
    await client.subscribe(pattern)

    assert "permissions violation for subscription" in await asyncio.wait_for(refused.get(), 5)
    await client.close()


async def test_unknown_credentials_end_the_start_with_one_message(guarded: NatsServer) -> None:
    """Not an endless wait for a server that will never let this service in."""
    restarted = NatsServer(guarded.folder, port=guarded.port)
    for settings in (guarded.settings(None), restarted.settings("judge")):
        with pytest.raises(SettingsError, match="ASI_NATS_NKEY_SEED"):
            async with Bus(settings, "judge"):
                pass
    for seed in ("UAAAA", ""):
        with pytest.raises(SettingsError, match="is not a user's nkey"):
            async with Bus(guarded.settings(None, nats_nkey_seed=seed), "judge"):
                pass
