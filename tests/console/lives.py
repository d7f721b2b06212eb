"""Playing the services that are not there: the next event of a candidate's way, as the broker would see it."""

import asyncio

from services.chassis.bus import Bus
from services.chassis.events import Cause, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2


async def next_of(bus: Bus, durable: str) -> tuple[Cause, int, int]:
    """The next work of a durable, taken and acknowledged: the event, its sequence, its delivery number."""
    consumer = await bus.consumer(durable)
    async with asyncio.timeout(20):
        while not (found := await consumer.fetch(1, wait=1)):
            pass
    await found[0].done()
    return Cause.of(found[0].body), found[0].sequence, found[0].deliveries


async def propose(bus: Bus, program: str = "x = 1\n") -> pb.Candidate:
    """The researcher's answer to the next request."""
    cause, _, attempt = await next_of(bus, "researcher")
    record = _record(cause)
    record.proposal.CopyFrom(pb.Proposal(name=f"Net{record.request.number}", program=program))
    record.state = pb.STATE_PROPOSED
    await _say(bus, cause, "proposed", attempt, record)
    return record


async def train(bus: Bus, loss: float = 1.5) -> pb.Candidate:
    """The engineer's claim and answer to the next proposal."""
    cause, _, attempt = await next_of(bus, "engineer-tiny")
    claim = follow(cause, "claimed", "engineer", attempt, pb.Candidate(id=cause.event.candidate))
    claim.ClearField("so_far")
    claim.candidate_claimed.worker = "w1"
    await bus.publish(claim)
    record = _record(cause)
    record.training.CopyFrom(pb.Training(loss=loss, benchmark=0.4, attempt=attempt))
    record.training.seeds.add(seed=1, loss=loss).measurements.CopyFrom(pb.Measurements(parameters=1000, seconds=1))
    record.state = pb.STATE_TRAINED
    await _say(bus, cause, "trained", attempt, record)
    return record


async def judge(bus: Bus, fitness: float = 0.5) -> pb.Candidate:
    """The judge's answer to the next training."""
    cause, _, attempt = await next_of(bus, "judge")
    record = _record(cause)
    record.verdict.raw = 5.0
    record.verdict.fitness.CopyFrom(pb.Fitness(version="paper", value=fitness))
    record.state = pb.STATE_JUDGED
    await _say(bus, cause, "judged", attempt, record)
    return record


async def analyse(bus: Bus) -> pb.Candidate:
    """The analyst's answer to the next verdict."""
    cause, _, attempt = await next_of(bus, "analyst")
    record = _record(cause)
    record.analysis.synthesis = "try again"
    record.state = pb.STATE_ANALYSED
    await _say(bus, cause, "analysed", attempt, record)
    return record


async def whole_way(bus: Bus, fitness: float = 0.5) -> pb.Candidate:
    """One candidate from its request to its analysis."""
    await propose(bus)
    await train(bus)
    await judge(bus, fitness)
    return await analyse(bus)


def _record(cause: Cause) -> pb.Candidate:
    record = pb.Candidate()
    record.CopyFrom(cause.event.so_far)
    return record


async def _say(bus: Bus, cause: Cause, fact: str, attempt: int, record: pb.Candidate) -> events_pb2.Event:
    event = follow(cause, fact, "played", attempt, record)
    getattr(event, f"candidate_{fact}").SetInParent()
    await bus.publish(event)
    return event
