"""`asi-arch dead` against a real store and a real nats-server: messages that cannot be handled."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest

from services.chassis.bus import Bus
from services.chassis.worker import Job, Worker
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2 as candidates
from services.contracts import events_pb2 as events
from tests.console.conftest import System
from tests.console.published_events import analyse, judge, propose, train, whole_way


async def bury(system: System, durable: str) -> None:
    """A service that fails on the next message of its durable for a reason of its own, and goes away."""

    async def fail(_: Job) -> list[events.Event]:
        raise ArithmeticError("seven is not even")

    async with Bus(system.settings, "played") as bus:
        worker = Worker(bus, await bus.consumer(durable), durable, "played", fail, 1)
        working = asyncio.create_task(worker.run())
        await state_of(system, "c000001", candidates.STATE_REJECTED)
        await worker.drain(5)
        await working


async def state_of(system: System, candidate: str, state: candidates.State.ValueType) -> candidates.Candidate:
    """Wait for a candidate's state; its record."""
    request = pb.GetCandidateRequest(run="r1", candidate=candidate)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                record = await system.archive.GetCandidate(request, timeout=10)
                if record.state == state:
                    return record
            await asyncio.sleep(0.05)


async def test_a_letter_is_listed_with_its_reason_and_shown_with_its_traceback(
    system: System, started: events.Event
) -> None:
    """The cause can be found without the service's log."""
    await system.bus.publish(started)
    await propose(system.bus)
    await bury(system, "engineer-tiny")
    listed = json.loads((await system.asi_arch("dead", "--json")).out)
    shown = await system.asi_arch("dead", "show", "c000001")
    unknown = await system.asi_arch("dead", "show", "c000009")

    assert [(letter["candidate"], letter["durable"], letter["state"]) for letter in listed] == [
        ("c000001", "engineer-tiny", "open")
    ]
    assert listed[0]["reason"] == "ArithmeticError: seven is not even"
    assert "Traceback (most recent call last)" in shown.out
    assert "r1.c000001.proposed.1" in shown.out
    assert unknown.status == 1
    assert "no dead letter is called 'c000009'" in unknown.err


@pytest.mark.parametrize(
    "durable",
    [
        "judge",
        *(pytest.param(durable, marks=pytest.mark.slow) for durable in ("researcher", "engineer-tiny", "analyst")),
    ],
)
async def test_a_retried_candidate_continues_where_its_message_was_lost(
    system: System, started: events.Event, durable: str
) -> None:
    """Completed steps are not repeated, and its end counts once."""
    bus = system.bus
    way: dict[str, Callable[[Bus], Awaitable[object]]] = {
        "researcher": propose,
        "engineer-tiny": train,
        "judge": judge,
        "analyst": analyse,
    }
    await bus.publish(started)
    for step in list(way)[: list(way).index(durable)]:
        await way[step](bus)
    await bury(system, durable)
    retried = await system.asi_arch("dead", "retry", "c000001")
    again = await system.asi_arch("dead", "retry", "c000001")
    for step in list(way)[list(way).index(durable) :]:
        await way[step](bus)
    record = await state_of(system, "c000001", candidates.STATE_ARCHIVED)
    run = await system.archive.GetRun(pb.RunRequest(run="r1"), timeout=10)
    refused = [
        link.refused_because
        for link in (await system.archive.GetChain(pb.GetCandidateRequest(candidate="c000001"), timeout=10)).links
        if not link.accepted
    ]

    assert retried.status == 0, retried.err
    assert "c000001 continues from r1.c000001." in retried.out
    assert again.status == 1
    assert "was retried already" in again.err
    assert record.retries == 1
    assert not record.HasField("rejection")
    assert run.dead_letters == 0
    assert refused == []


async def test_a_retried_root_lets_its_run_continue(system: System, started: events.Event) -> None:
    """The run had ended for want of a root; resumed, it searches and finishes."""
    bus = system.bus
    await bus.publish(started)
    await propose(bus)
    await bury(system, "engineer-tiny")
    await system.until("stopped")
    await system.asi_arch("dead", "retry", "c000001")
    resumed = await system.asi_arch("resume")
    await train(bus)
    await judge(bus)
    await analyse(bus)
    await whole_way(bus)
    ended = await system.until("finished")

    assert resumed.status == 0, resumed.err
    assert dict(ended.states) == {"archived": 2}
    assert ended.proposals_ended == 1


async def test_a_dropped_letter_is_closed_and_its_candidate_stays_rejected(
    system: System, started: events.Event
) -> None:
    """It counts no longer, and cannot be retried."""
    await system.bus.publish(started)
    await propose(system.bus)
    await bury(system, "engineer-tiny")
    dropped = await system.asi_arch("dead", "drop", "c000001", "--reason", "a typing error of mine")
    retried = await system.asi_arch("dead", "retry", "c000001")
    listed = json.loads((await system.asi_arch("dead", "list", "--json")).out)
    run = await system.archive.GetRun(pb.RunRequest(run="r1"), timeout=10)

    assert dropped.status == 0, dropped.err
    assert retried.status == 1
    assert "was dropped already" in retried.err
    assert listed[0]["state"] == "dropped"
    assert run.dead_letters == 0
