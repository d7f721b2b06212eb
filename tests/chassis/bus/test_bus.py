"""The bus against a real nats-server."""

import asyncio
import time

import pytest
import uvloop
from structlog.testing import capture_logs

from services.chassis.bus import Bus, Logged
from services.chassis.bus.topology import EVENTS, MAX_EVENT_BYTES, StreamSpec, drift
from services.chassis.errors import AlreadyStored, BusLost, EventTooBig, Transient
from services.chassis.events import Cause, body_of, first, follow
from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2 as pb
from services.contracts import progress_pb2
from services.local.processes import Broker, free_port
from services.store.forking import inherited


def started(run: str = "r1") -> pb.Event:
    event = first(run, "started", "console")
    event.run_started.settings.scale = "tiny"
    return event


def requested(run: str = "r1", candidate: str = "c000001") -> pb.Event:
    event = follow(Cause.published(started(run)), "requested", "store", 1, candidate)
    event.candidate_requested.SetInParent()
    return event


async def test_the_same_event_published_twice_is_in_the_log_once(bus: Bus) -> None:
    """A publisher that lost the acknowledgement publishes again."""
    event = started()

    assert await bus.publish(event) == await bus.publish(event)
    assert await bus.last_sequence() == 1


async def test_what_was_handed_back_before_a_restart_comes_again_at_once(
    broker: Broker, settings: ServiceSettings
) -> None:
    """The server forgets that it was, and would deliver it after a minute; its configuration stays as it is."""
    async with Bus(settings, "tests") as bus:
        await bus.set_up()
        await bus.publish(requested())
        for durable in ("store", "researcher"):
            (delivery,) = await (await bus.consumer(durable)).fetch(1)
            await delivery.redeliver(0)
    await asyncio.to_thread(broker.stop)
    await asyncio.to_thread(broker.start)
    async with Bus(settings, "tests") as bus:
        consumers = [await bus.consumer(durable) for durable in ("store", "researcher")]
        assert [await consumer.fetch(1, wait=0.5) for consumer in consumers] == [[], []]
        taking, changed = asyncio.create_task(bus.take_back()), list[str]()
        while len(changed) < 2 and not taking.done():
            changed = await bus.compare({"store", "researcher"})
        taking.cancel()  # as if the runner were killed
        assert len(changed) == 2
        await bus.take_back()

        assert [len(await consumer.fetch(1)) for consumer in consumers] == [1, 1]
        assert await bus.compare() == []


async def test_a_second_set_up_creates_nothing_and_finds_no_drift(bus: Bus) -> None:
    """Set-up runs at every deployment."""
    assert await bus.set_up() == []
    assert await bus.compare() == []


def test_replicated_streams_are_not_compressed_but_existing_ones_still_work() -> None:
    """A broker's copy may be unreadable after its death otherwise; a log that was set up earlier is not refused."""
    spec = StreamSpec(EVENTS, ("asi.v1.>",), keep_forever=True)
    compressed = spec.config(1)
    compressed.num_replicas = 3
    assert spec.config(3).compression is None
    assert drift("stream EVENTS", spec.config(3), compressed) == []


async def test_an_event_that_is_too_big_is_refused_before_it_reaches_the_server(bus: Bus) -> None:
    """Past 1 MiB the server would close the connection for good."""
    event = requested()
    event.candidate_requested.proposal.program = "x" * 300_000

    with pytest.raises(EventTooBig, match="at most 262144"):
        await bus.publish(event)


async def test_the_largest_event_fits_into_the_history_of_a_fork(bus: Bus) -> None:
    """A fork embeds it in another event, which is slightly larger."""
    event = requested()
    event.candidate_requested.proposal.program = "x" * (MAX_EVENT_BYTES - 500)
    missing = MAX_EVENT_BYTES - len(body_of(event))
    event.candidate_requested.proposal.program += "x" * missing
    await bus.publish(event)
    copy = inherited(Logged(1, "", body_of(event)), "a-fork-with-quite-a-long-name", 1)

    assert len(body_of(event)) == MAX_EVENT_BYTES
    assert await bus.publish(copy) == 2


async def test_an_event_reaches_only_the_durable_of_its_fact(bus: Bus) -> None:
    """Work is routed by subject."""
    await bus.publish(requested())
    researcher, judge = await bus.consumer("researcher"), await bus.consumer("judge")

    (delivery,) = await researcher.fetch(1)
    assert pb.Event.FromString(delivery.body).candidate == "c000001"
    assert await judge.fetch(1, wait=0.3) == []


async def test_a_fetch_hands_on_at_once_what_has_arrived(bus: Bus) -> None:
    """A projection must not wait for a full batch."""
    consumer = await bus.consumer("store")
    before = time.monotonic()
    await bus.publish(started("r1"))
    await bus.publish(started("r2"))
    sequences: list[int] = []
    while len(sequences) < 2:
        for delivery in await consumer.fetch(100):
            sequences.append(delivery.sequence)
            await delivery.acknowledge()
    await bus.publish(started("r3"))
    (late,) = await consumer.fetch(100)

    assert sequences == [1, 2]
    assert late.sequence == 3
    assert time.monotonic() - before < 4


async def test_what_was_requested_ahead_goes_to_later_fetches_or_back_to_the_server(bus: Bus) -> None:
    """A worker with free slots needs one request for several messages, and returns the rest when it drains."""
    leaving, staying = await bus.consumer("researcher"), await bus.consumer("researcher")
    for number in range(4):
        await bus.publish(requested(candidate=f"c{number:06d}"))
    (first_one,) = await leaving.fetch(1, ahead=2)
    info = await leaving.info()
    assert info is not None
    assert info.num_ack_pending == 3
    (second,) = await leaving.fetch(1, ahead=2)
    await leaving.release()
    others = [delivery.sequence for _ in range(2) for delivery in await staying.fetch(1)]

    assert (first_one.sequence, second.sequence) == (1, 2)
    assert sorted(others) == [3, 4]


async def test_a_returned_message_is_redelivered_with_a_higher_attempt(bus: Bus) -> None:
    """The delivery number is the fencing token."""
    await bus.publish(requested())
    consumer = await bus.consumer("researcher")
    (once,) = await consumer.fetch(1)
    await once.redeliver(0)
    (twice,) = await consumer.fetch(1)

    assert (once.deliveries, twice.deliveries) == (1, 2)


async def test_the_log_is_read_in_order_and_ends(bus: Bus) -> None:
    """A replay reads everything there is and stops."""
    for number in range(300):
        await bus.publish(requested(candidate=f"c{number:06d}"))
    logged = [message async for message in bus.read_log()]

    assert [message.sequence for message in logged] == list(range(1, 301))
    assert [message.sequence async for message in bus.read_log(start=299)] == [299, 300]
    assert [message async for message in bus.read_log("asi.v1.other.>")] == []


async def test_reading_a_run_skips_the_others(bus: Bus) -> None:
    """A subject filter selects one run's events."""
    for run in ("r1", "r2", "r1", "r2"):
        await bus.publish(requested(run, f"c{await bus.last_sequence():06d}"))

    assert [message.sequence async for message in bus.read_log("asi.v1.r2.>")] == [2, 4]
    assert [message.sequence async for message in bus.read_log("asi.v1.r1.>", start=2)] == [3]


async def test_a_body_is_found_by_its_sequence(bus: Bus) -> None:
    """An audit shows the bytes of the log."""
    event = started()
    sequence = await bus.publish(event)

    assert pb.Event.FromString((await bus.message_at(sequence)).body) == event
    with pytest.raises(KeyError):
        await bus.message_at(99)


async def test_fetches_go_on_after_a_quiet_time(bus: Bus) -> None:
    """A pull that expired is asked for again."""
    consumer = await bus.consumer("store")
    quiet = await consumer.fetch(10, wait=0.3)
    await bus.publish(started())
    after: list[int] = []
    async with asyncio.timeout(10):
        while not after:
            after = [delivery.sequence for delivery in await consumer.fetch(10, wait=0.3)]

    assert quiet == []
    assert after == [1]


async def test_messages_that_arrive_after_a_timeout_go_to_the_next_fetch(bus: Bus) -> None:
    """A cancelled reader has sent a request; its messages must go to the next reader at once."""
    leaving, staying = await bus.consumer("researcher"), await bus.consumer("researcher")
    asking = asyncio.create_task(leaving.fetch(1))
    await asyncio.sleep(0.2)
    asking.cancel()
    await asyncio.wait([asking])
    await bus.publish(requested())
    await asyncio.sleep(0.2)
    await leaving.release()
    (delivery,) = await staying.fetch(1)

    assert delivery.deliveries == 2


async def test_a_durable_that_was_deleted_ends_the_fetching(bus: Bus) -> None:
    """Its service stops with an error that names the fix, instead of polling."""
    consumer = await bus.consumer("researcher")
    assert await consumer.fetch(1, wait=0.2) == []
    await bus._js.delete_consumer(EVENTS, "researcher")
    with pytest.raises(BusLost, match="run `asi-arch setup`"):
        await consumer.fetch(1, wait=0.2)


async def test_a_connection_that_is_closed_ends_the_fetching(settings: ServiceSettings) -> None:
    """A closed connection does not reconnect."""
    async with Bus(settings, "tests") as closing:
        await closing.set_up()
        consumer = await closing.consumer("researcher")
    with pytest.raises(BusLost, match="is closed"):
        await consumer.fetch(1)


async def test_more_copies_than_servers_are_refused_with_the_server_s_reason(settings: ServiceSettings) -> None:
    """Of `asi-arch setup --replicas 3` with one broker."""
    async with Bus(settings, "tests") as bus:
        with pytest.raises(Transient, match="NATS did not create EVENTS: replicas > 1 not supported"):
            await bus.set_up(3)


async def test_a_command_waits_for_no_server() -> None:
    """Neither where nothing listens, nor where nothing is said, as by a server that is suspended."""
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = silent.sockets[0].getsockname()[1]
    for address in (
        f"127.0.0.1:{free_port()}",
        f"127.0.0.1:{port}",
        f"127.0.0.1:{free_port()},nats://127.0.0.1:{port}",
    ):
        with pytest.raises(BusLost, match="no NATS server answers at nats://127"):
            async with asyncio.timeout(10), Bus(ServiceSettings(nats_url=f"nats://{address}"), "command", 0.5):
                pass
    silent.close()


async def test_an_outage_is_reported_once_and_an_end_within_it_ends_the_client() -> None:
    """An attempt to connect fails each second; a client that nobody uses any more logs nothing later."""
    with capture_logs() as logs, pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5), Bus(ServiceSettings(nats_url=f"nats://127.0.0.1:{free_port()}"), "service"):
            pass
    before = asyncio.all_tasks()

    assert [entry["event"] for entry in logs] == ["NATS error"]
    assert before == {asyncio.current_task()}


async def test_the_only_event_of_its_subject_is_stored_once(bus: Bus) -> None:
    """Of several commands that start a run of one name each must learn whether it did, also after the ten minutes,
    and whatever they begin it with: a fork's first event has another subject.
    """
    other = started()
    other.id += ".again"  # as if the first one's id had been forgotten
    copied = first("r1", "inherited", "console")
    copied.run_inherited.sequence = 1
    events = started(), started(), other, copied
    answers = await asyncio.gather(*(bus.publish(event, only="asi.v1.r1.>") for event in events),
                                   return_exceptions=True)  # fmt: skip

    assert [type(answer) for answer in answers] == [int, AlreadyStored, AlreadyStored, AlreadyStored]
    assert await bus.last_sequence() == 1
    assert await bus.publish(started("r2"), only="asi.v1.r2.>") == 2
    assert await bus.publish(copied, only="asi.v1.r1.run.inherited") == 3


async def test_a_log_at_its_limit_says_what_to_raise_and_goes_on_once_it_is(bus: Bus) -> None:
    """Nothing is removed from the log to make room."""
    await bus.publish(started())
    stream = (await bus._js.stream_info(EVENTS)).config
    stream.max_bytes = 300
    await bus._js.update_stream(stream)
    with pytest.raises(Transient, match=r"requested\.1: the log has reached its `max_bytes`"):
        await bus.publish(requested())
    stream.max_bytes = -1
    await bus._js.update_stream(stream)

    assert await bus.publish(requested()) == 2


def test_a_service_ends_in_order_while_its_server_is_down(broker: Broker, settings: ServiceSettings) -> None:
    """On the loop of services: what could not be sent is lost with the connection, and raises nothing."""

    async def lose_the_server() -> None:
        async with asyncio.timeout(30), Bus(settings, "tests") as bus:
            broker.kill()
            await asyncio.sleep(0.5)
            assert not bus.connected
            await bus.announce(progress_pb2.Progress(run="r1", candidate="c000001"))

    uvloop.run(lose_the_server())
