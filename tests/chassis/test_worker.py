"""Counts and dead letters of the worker loop, against a real nats-server with least privileges."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest_asyncio
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.chassis.bus import Bus, Logged
from services.chassis.bus.access import ADMINISTRATOR
from services.chassis.bus.topology import HANDLING_SUBJECTS
from services.chassis.errors import Rejected, Transient
from services.chassis.events import Cause, body_of, first, follow
from services.chassis.worker import Job, Worker
from services.contracts import events_pb2 as pb
from services.store.app import record_dead_letters
from services.store.projection import read
from tests.chassis.nats_server import NatsServer

DURABLE = "engineer-tiny"


@pytest_asyncio.fixture
async def admin(guarded: NatsServer) -> AsyncIterator[Bus]:
    """The administrator, on a log that holds one proposed candidate."""
    async with Bus(guarded.settings(ADMINISTRATOR), "admin") as connected:
        await connected.set_up()
        proposed = follow(Cause.published(first("r1", "started", "console")), "proposed", "researcher", 1, "c000001")
        proposed.candidate_proposed.stage = "tiny"
        await connected.publish(proposed)
        yield connected


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask a few times a second."""
    for _ in range(150):
        if await holds():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("not within 15 seconds")


async def is_empty(bus: Bus, durable: str) -> bool:
    """Whether nothing waits and nothing is in hand."""
    return await bus.depth(durable) == (0, 0)


async def facts_as_logged(bus: Bus) -> list[Logged]:
    """The whole log as it lies there."""
    return [message async for message in bus.read_log()]


async def facts(bus: Bus) -> list[pb.Event]:
    """The whole log."""
    return [pb.Event.FromString(message.body) async for message in bus.read_log()]


def counted(counter: str, **labels: str) -> float:
    """The value of a counter in this process; 0.0 before it was first raised."""
    return REGISTRY.get_sample_value(counter, labels) or 0.0


@asynccontextmanager
async def keeping(guarded: NatsServer) -> AsyncIterator[None]:
    """The store's keeper of dead letters, at work."""
    async with Bus(guarded.settings("store"), "store") as store:
        keeper = asyncio.create_task(record_dead_letters(store, await store.consumer("dead-letters")))
        yield
        assert not keeper.done()
        keeper.cancel()


async def work(
    bus: Bus, handler: Callable[[Job], Awaitable[Sequence[pb.Event]]], done: Callable[[], Awaitable[bool]]
) -> None:
    """Run a worker of the engineer until `done`."""
    worker = Worker(bus, await bus.consumer(DURABLE), DURABLE, "engineer", handler, parallel=1)
    running = asyncio.create_task(worker.run())
    await until(done)
    await worker.drain(5)
    await running


async def test_a_forged_verdict_becomes_a_dead_letter_with_its_reason(guarded: NatsServer, admin: Bus) -> None:
    """Without time-outs and redeliveries: the reason names the missing permission."""
    before = counted("asi_dead_letters_total", durable=DURABLE)
    denied = counted("asi_denied_total", operation="publish")

    async def forge(job: Job) -> Sequence[pb.Event]:
        event = follow(job.cause, "judged", "judge", job.attempt, job.event.candidate)
        event.candidate_judged.SetInParent()
        return [event]

    async def buried() -> bool:
        return any(event.HasField("dead") for event in await facts(admin))

    async with Bus(guarded.settings("engineer"), "engineer") as bus:
        await work(bus, forge, buried)

    (dead,) = [event.dead for event in await facts(admin) if event.HasField("dead")]
    assert "Denied" in dead.reason
    assert "candidate.judged" in dead.reason
    assert dead.deliveries == 1
    assert not [event for event in await facts(admin) if event.HasField("candidate_judged")]
    assert counted("asi_dead_letters_total", durable=DURABLE) == before + 1
    assert counted("asi_denied_total", operation="publish") == denied + 1


async def test_a_rejection_that_is_too_big_becomes_a_dead_letter(guarded: NatsServer, admin: Bus) -> None:
    """Numbers are not truncated; without a dead letter its message would be redelivered without end."""

    async def reject(job: Job) -> Sequence[pb.Event]:
        raise Rejected("check", "far too much evidence", {"positions": list(range(60_000))})

    async def buried() -> bool:
        return any(event.HasField("dead") for event in await facts(admin))

    with capture_logs():  # printing a traceback with such locals takes minutes
        async with Bus(guarded.settings("engineer"), "engineer") as bus:
            await work(bus, reject, buried)

    (dead,) = [event.dead for event in await facts(admin) if event.HasField("dead")]
    assert "EventTooBig" in dead.reason
    assert dead.deliveries == 1


async def test_a_fact_under_a_foreign_subject_is_refused_by_its_readers(guarded: NatsServer, admin: Bus) -> None:
    """The server checks only subjects; readers refuse a verdict under an engineer's subject."""
    cause = Cause.of((await facts_as_logged(admin))[0].body)
    forged = follow(cause, "judged", "judge", 1, cause.event.candidate)
    forged.candidate_judged.SetInParent()
    handled: list[str] = []

    async def judge(job: Job) -> Sequence[pb.Event]:
        handled.append(job.event.id)
        return []

    async with Bus(guarded.settings("engineer"), "engineer") as engineer:
        await engineer.publish_body("asi.v1.r1.candidate.trained", forged.id, body_of(forged))
    async with Bus(guarded.settings("judge"), "judge") as bus, keeping(guarded):
        worker = Worker(bus, await bus.consumer("judge"), "judge", "judge", judge, parallel=1)
        running = asyncio.create_task(worker.run())
        await until(partial(is_empty, admin, "judge"))
        await until(partial(is_empty, admin, "dead-letters"))
        await worker.drain(5)
        await running
    read_back = [read(message) for message in await facts_as_logged(admin)]

    assert not handled
    assert [event.readable for event in read_back] == [True, False]
    assert not read_back[1].log.accepted


async def test_redeliveries_facts_and_gpu_seconds_are_counted(guarded: NatsServer, admin: Bus) -> None:
    """A first try that fails for a passing reason, a second one that trains for a while."""
    names = {
        "asi_redeliveries_total": {"durable": DURABLE},
        "asi_facts_total": {"fact": "candidate.trained"},
        "asi_gpu_seconds_total": {"stage": "tiny"},
        "asi_trained_tokens_total": {"stage": "tiny"},
        "asi_handler_seconds_count": {"durable": DURABLE},
    }
    before = {name: counted(name, **labels) for name, labels in names.items()}

    async def train(job: Job) -> Sequence[pb.Event]:
        if job.attempt == 1:
            raise Transient("the store is away", 0)
        event = follow(job.cause, "trained", "engineer", job.attempt, job.event.candidate)
        event.candidate_trained.stage = "tiny"
        for seconds in (1.5, 2.0):
            measurements = event.candidate_trained.training.seeds.add().measurements
            measurements.gpu_seconds, measurements.tokens = seconds, 1000
        return [event]

    async def trained() -> bool:
        return any(event.HasField("candidate_trained") for event in await facts(admin))

    async with Bus(guarded.settings("engineer"), "engineer") as bus:
        await work(bus, train, trained)

    assert {name: counted(name, **labels) - before[name] for name, labels in names.items()} == {
        "asi_redeliveries_total": 1,
        "asi_facts_total": 1,
        "asi_gpu_seconds_total": 3.5,
        "asi_trained_tokens_total": 2000,
        "asi_handler_seconds_count": 2,
    }


async def test_a_silently_terminated_message_is_recorded_by_the_store(guarded: NatsServer, admin: Bus) -> None:
    """Its service died between the dead letter and the end of the deliveries: the broker's advisory is all there is."""
    async with Bus(guarded.settings("engineer"), "engineer") as engineer:
        (delivery,) = await (await engineer.consumer(DURABLE)).fetch(1)
        await delivery.terminate()

    async def is_recorded() -> bool:
        return any(event.HasField("dead") for event in await facts(admin))

    async with keeping(guarded):
        await until(is_recorded)

    (dead,) = [event for event in await facts(admin) if event.HasField("dead")]
    assert (dead.candidate, dead.dead.consumer) == ("c000001", DURABLE)


async def test_facts_of_a_later_version_and_garbage_do_not_stop_a_consumer(guarded: NatsServer, admin: Bus) -> None:
    """They are skipped, without effect on the candidates that they name."""
    subject = "asi.v1.r1.candidate.proposed.tiny"
    unknown = pb.Event(id="r1.c000001.praised.1", run="r1", candidate="c000001").SerializeToString()
    for number, body in enumerate((b"", b"\xff\xff no event", unknown, unknown + b"\xd2\x3f\x00")):
        await admin.publish_body(subject, f"odd-{number}", body)
    handled: list[str] = []

    async def handle(job: Job) -> Sequence[pb.Event]:
        handled.append(job.event.id)
        return []

    async with Bus(guarded.settings("engineer"), "engineer") as bus, keeping(guarded):
        await work(bus, handle, partial(is_empty, admin, DURABLE))
        await until(partial(is_empty, admin, "dead-letters"))

    assert handled == ["r1.c000001.proposed.1"]
    assert not [message for message in await facts_as_logged(admin) if message.subject.endswith(".dead")]


async def test_outages_never_exhaust_the_deliveries_of_a_message(guarded: NatsServer, admin: Bus) -> None:
    """Deliveries are not failures."""
    attempts: list[int] = []

    async def handle(job: Job) -> Sequence[pb.Event]:
        attempts.append(job.attempt)
        if job.attempt < 15:
            raise Transient("the store is away", 0)
        return []

    async with Bus(guarded.settings("engineer"), "engineer") as bus:
        await work(bus, handle, partial(is_empty, admin, DURABLE))

    assert attempts == list(range(1, 16))
    assert not [event for event in await facts(admin) if event.HasField("dead")]


async def test_what_an_outage_leaves_uncompleted_is_one_warning(guarded: NatsServer, admin: Bus) -> None:
    """A second traceback, of the broker's silence, would hide that of the error."""

    async def handle(job: Job) -> Sequence[pb.Event]:
        await asyncio.to_thread(guarded.stop)
        raise ValueError("a bug")

    async def reported() -> bool:
        return any("could not be completed" in entry["event"] for entry in logs)

    async with Bus(guarded.settings("engineer"), "engineer") as bus:
        with capture_logs() as logs:
            await work(bus, handle, reported)

    (report,) = [entry for entry in logs if "could not be completed" in entry["event"]]
    assert report["log_level"] == "warning"
    assert "the broker did not accept r1.c000001.dead" in report["reason"]
    assert "exc_info" not in report


async def test_a_crash_note_of_another_form_is_no_evidence(guarded: NatsServer, admin: Bus) -> None:
    """Written by hand, or by a later version: the candidate is not at fault."""
    attempts: list[int] = []

    async def handle(job: Job) -> Sequence[pb.Event]:
        attempts.append(job.attempt)
        if job.attempt == 1:
            await job.bus.publish_body(f"{HANDLING_SUBJECTS}.{DURABLE}.{job.sequence}", "", b'{"deaths": "many"}')
            raise Transient("the store is away", 0)
        return []

    async with Bus(guarded.settings("engineer"), "engineer") as bus:
        await work(bus, handle, partial(is_empty, admin, DURABLE))

    assert attempts == [1, 2]
    assert not [event for event in await facts(admin) if event.HasField("dead")]


async def test_a_failure_of_the_machine_is_waited_out(guarded: NatsServer, admin: Bus) -> None:
    """A full disk is not the candidate's fault, and another replica may have room."""

    async def handle(job: Job) -> Sequence[pb.Event]:
        if job.attempt == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/runs/x")
        return []

    async with Bus(guarded.settings("engineer"), "engineer") as bus:
        with capture_logs() as logs:
            await work(bus, handle, partial(is_empty, admin, DURABLE))

    assert not [event for event in await facts(admin) if event.HasField("dead")]
    (waited,) = [entry for entry in logs if entry["event"] == "again later"]
    assert waited["reason"] == "[Errno 28] No space left on device: '/data/runs/x'"
