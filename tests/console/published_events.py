"""Plays absent services: publishes the next event of a candidate."""

import asyncio

from services.chassis.bus import Bus
from services.chassis.events import Cause, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2


async def next_of(bus: Bus, durable: str) -> tuple[Cause, int, int]:
    """The next work of a durable, taken and acknowledged: the event, its sequence, its delivery number."""
    consumer = await bus.consumer(durable)
    async with asyncio.timeout(20):
        while not (messages := await consumer.fetch(1, wait=1)):
            pass
    await messages[0].acknowledge()
    return Cause.of(messages[0].body), messages[0].sequence, messages[0].deliveries


async def propose(bus: Bus, program: str = "x = 1\n") -> pb.Candidate:
    """The researcher's answer to the next request."""
    cause, _, attempt = await next_of(bus, "researcher")
    request = cause.event.candidate_requested.request
    proposal = pb.Proposal(name=f"Net{request.number}", program=program)
    event = follow(cause, "proposed", "played", attempt, cause.event.candidate)
    event.candidate_proposed.CopyFrom(events_pb2.CandidateProposed(proposal=proposal, stage="tiny"))
    await bus.publish(event)
    return pb.Candidate(id=event.candidate, run=event.run, request=request, proposal=proposal)


async def train(bus: Bus, loss: float = 1.5, benchmark: float = 0.4) -> pb.Candidate:
    """The engineer's claim and answer to the next proposal."""
    cause, _, attempt = await next_of(bus, "engineer-tiny")
    claim = follow(cause, "claimed", "engineer", attempt, cause.event.candidate)
    claim.candidate_claimed.worker = "w1"
    await bus.publish(claim)
    training = pb.Training(loss=loss, benchmark=benchmark, attempt=attempt)
    training.seeds.add(seed=1, loss=loss).measurements.CopyFrom(pb.Measurements(parameters=1000, seconds=1))
    event = follow(cause, "trained", "played", attempt, cause.event.candidate)
    event.candidate_trained.CopyFrom(events_pb2.CandidateTrained(training=training, stage="tiny"))
    await bus.publish(event)
    return pb.Candidate(id=event.candidate, run=event.run, training=training)


async def judge(bus: Bus, fitness: float = 0.5) -> pb.Candidate:
    """The judge's answer to the next training."""
    cause, _, attempt = await next_of(bus, "judge")
    verdict = pb.Verdict(raw=5.0, fitness=pb.Fitness(version="paper", value=fitness))
    event = follow(cause, "judged", "played", attempt, cause.event.candidate)
    event.candidate_judged.verdict.CopyFrom(verdict)
    await bus.publish(event)
    return pb.Candidate(id=event.candidate, run=event.run, verdict=verdict)


async def analyse(bus: Bus) -> pb.Candidate:
    """The analyst's answer to the next verdict."""
    cause, _, attempt = await next_of(bus, "analyst")
    event = follow(cause, "analysed", "played", attempt, cause.event.candidate)
    event.candidate_analysed.analysis.synthesis = "try again"
    await bus.publish(event)
    return pb.Candidate(id=event.candidate, run=event.run, analysis=event.candidate_analysed.analysis)


async def whole_way(bus: Bus, program: str = "x = 1\n", loss: float = 1.5, fitness: float = 0.5) -> pb.Candidate:
    """One candidate from its request to its analysis."""
    await propose(bus, program)
    await train(bus, loss, 0.7 - 0.2 * loss)
    await judge(bus, fitness)
    return await analyse(bus)
