"""An endpoint that hangs, answers garbage or is away costs time, and no candidate.

In the field that is minutes: time-outs and back-offs are settings, and are fractions of a second here. The outage lasts
for more than five time-outs, as five minutes do at a time-out of a minute.
"""

import asyncio
from collections.abc import Sequence

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import Transient
from services.chassis.events import Cause, first, follow
from services.chassis.worker import Job, Worker
from services.contracts import events_pb2
from services.llm.budget import MemoryLedger
from services.llm.scripted import FaultName, ScriptedEndpoint, Step
from services.local.processes import free_port
from tests.llm.scripted_minds import GOOD, mind, question, script, settings

CANDIDATES = 3
TIMEOUT = 0.15
ASKS = 24
"""That go wrong before the endpoint answers: eight per candidate; a question is put three times, then given back."""


async def _requests(bus: Bus) -> None:
    started = Cause.published(first("r1", "started", "console"))
    for number in range(CANDIDATES):
        requested = follow(started, "requested", "store", 1, f"c{number:06}")
        requested.candidate_requested.SetInParent()
        await bus.publish(requested)


@pytest.mark.parametrize("fate", ["hang", "malformed", "disconnect", "server_error", "absent"])
async def test_candidates_wait_for_an_endpoint_that_fails(bus: Bus, fate: FaultName | str) -> None:
    """Each is proposed in the end, none becomes a dead letter or a rejection."""
    await _requests(bus)
    port, proposed = free_port(), asyncio.Event()
    faults = [] if fate == "absent" else [Step(fault=fate, times=ASKS)]
    endpoint = ScriptedEndpoint(script(*faults, otherwise=Step(answer=GOOD)), port)
    model = mind(settings(f"http://127.0.0.1:{port}/v1", timeout=TIMEOUT), MemoryLedger())
    done = list[str]()

    async def propose(job: Job) -> Sequence[events_pb2.Event]:
        try:
            await model.ask(question(job.event.candidate))
        except Transient as error:
            raise Transient(str(error), delay=0.1) from error  # instead of a back-off of up to half a minute
        done.append(job.event.candidate)
        if len(done) == CANDIDATES:
            proposed.set()
        answer = follow(job.cause, "proposed", "researcher", 1, job.event.candidate)
        answer.candidate_proposed.stage = "tiny"
        return [answer]

    worker = Worker(bus, await bus.consumer("researcher"), "researcher", "researcher", propose, CANDIDATES)
    working = asyncio.create_task(worker.run())
    if fate == "absent":
        await asyncio.sleep(6 * TIMEOUT)
    async with endpoint, model:
        await asyncio.wait_for(proposed.wait(), 60)
        await worker.drain(5)
        await working
    facts = [events_pb2.Event.FromString(message.body).WhichOneof("fact") async for message in bus.read_log()]

    assert facts.count("candidate_proposed") == CANDIDATES
    assert not {"dead", "candidate_rejected"} & set(facts)


async def test_why_nothing_is_done_is_announced_until_the_delivery_comes_again(bus: Bus) -> None:
    """A wait for a model must not look like progress."""
    await _requests(bus)

    async def propose(job: Job) -> Sequence[events_pb2.Event]:
        raise Transient("some-model is left alone for 60 s", delay=60.0)

    worker = Worker(bus, await bus.consumer("researcher"), "researcher", "researcher", propose, CANDIDATES)
    async with bus.announcements("r1") as announced, asyncio.timeout(20):
        working = asyncio.create_task(worker.run())
        waiting = set[str]()
        while len(waiting) < CANDIDATES:
            heard = await announced.get()
            if heard.waits_for == "another attempt: some-model is left alone for 60 s":
                waiting.add(heard.candidate)
        await worker.drain(1.0)
        await working
