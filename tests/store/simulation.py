"""Simulated run logs: the store's events are its real reactions, those of the other services are generated."""

import math
import random
from collections.abc import Callable
from typing import Any

from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import Rejected
from services.chassis.events import Cause, body_of, first, follow, rejection
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.structure import fingerprint
from services.store.backends.folding import Loaded, fold, unapplied
from services.store.port import Archive
from services.store.reactions import react

EMBEDDER = "toy-8"

PROGRAM = """
class DeltaNet(nn.Module):
    def __init__(self, d_model, width={width}):
        super().__init__()
        self.project = nn.Linear(d_model, width)

    def forward(self, hidden_states):
        return self.project(hidden_states) * {scale} + {shift}
"""


def program(number: int) -> str:
    """One of several structures: numbers with the same remainders share one."""
    return PROGRAM.format(width=number % 3 + 1, scale=number % 5 + 1, shift=number % 7 + 1)


def embedding(number: int) -> list[float]:
    """A direction that turns slowly with the number."""
    return [math.cos(number * 0.05 * (axis + 1)) for axis in range(8)]


def settings(**changes: Any) -> events_pb2.RunSettings:
    """A small run."""
    chosen = events_pb2.RunSettings(
        scale="tiny",
        mind="offline",
        seats=2,
        seed=7,
        candidate_seeds=1,
        baseline_seeds=1,
        baselines=["delta_net", "gated_delta_net"],
        fitness="paper",
        pool=events_pb2.PoolSettings(size=4, parents=2, references=2, cold_start=3, batch=2),
        budget=events_pb2.Budget(candidates=6),
    )
    chosen.MergeFrom(events_pb2.RunSettings(**changes))
    return chosen


class Simulation:
    """A log that grows. `open` holds what waits for somebody's answer, oldest first."""

    def __init__(self, run: str = "r1", seed: int = 1) -> None:
        self.run = run
        self.log: list[Logged] = []
        self.loaded = Loaded()
        self.open: list[Cause] = []
        self.random = random.Random(seed)

    def start(self, **changes: object) -> Cause:
        """The run begins, and the store asks for the first candidates."""
        event = first(self.run, "started", "console")
        event.run_started.settings.CopyFrom(settings(**changes))
        return self.say(event)

    def say(self, event: events_pb2.Event) -> Cause:
        """An event enters the log, and what the store answers after it."""
        for message in (event, *self._hear(event)):
            if message is not event:
                self.say(message)
        return Cause.published(event)

    def hear(self, message: Logged) -> None:
        """A message of another simulation enters this one's log; nothing is said in answer."""
        self.log.append(message)
        fold(unapplied([message], message.sequence - 1), self.loaded, None)

    def repeat(self, sequence: int) -> None:
        """A message enters the log a second time."""
        self._append(self.log[sequence - 1].subject, self.log[sequence - 1].body)

    def garbage(self, body: bytes = b"\xff\xff no event") -> None:
        """What is no event enters the log."""
        self._append(f"asi.v1.{self.run}.candidate.proposed", body)

    def finish(self) -> "Simulation":
        """Play every open candidate to its end, in an order of the seed's."""
        while self.open:
            self.step(self.open[self.random.randrange(len(self.open))])
        return self

    def step(self, cause: Cause) -> Cause:
        """The next event of one candidate's way."""
        fact = cause.event.WhichOneof("fact") or ""
        return self.say(_NEXT[fact](self, cause))

    def way(self, cause: Cause, until: str = "candidate_analysed") -> Cause:
        """Several events of one candidate's way, up to a fact."""
        while cause.event.WhichOneof("fact") != until:
            cause = self.step(cause)
        return cause

    def _append(self, subject: str, body: bytes) -> Logged:
        logged = Logged(len(self.log) + 1, subject, body)
        self.log.append(logged)
        return logged

    def _hear(self, event: events_pb2.Event) -> list[events_pb2.Event]:
        logged = self._append(subject_of(event), body_of(event))
        effects = fold(unapplied([logged], logged.sequence - 1), self.loaded, react)
        if effects.logs[0].accepted and not event.HasField("mind_answered"):
            self.open = [cause for cause in self.open if cause.event.id != event.cause]
            if event.WhichOneof("fact") in _NEXT:
                self.open.append(Cause.published(event))
        return list(effects.reactions.values())


def proposed(simulation: Simulation, cause: Cause) -> events_pb2.Event:
    """The researcher's answer: baselines are roots but for the second, proposals come from somebody archived."""
    record = _record(simulation, cause)
    number, ended = record.request.number, [row.record.id for row in simulation.loaded.rows.values() if row.ended]
    record.proposal.name = f"net_{number % 4}"
    record.proposal.program = program(number)
    record.proposal.structure = fingerprint(program(number)).digest
    record.proposal.parent = "" if record.request.baseline else simulation.random.choice(sorted(ended))
    record.proposal.motivation = f"because of {number}"
    record.proposal.motivation_embedding.extend(embedding(number))
    record.proposal.embedder = EMBEDDER
    record.proposal.moves.extend([f"move_{number % 3}"])
    return _follow(cause, "proposed", record)


def trained(simulation: Simulation, cause: Cause) -> events_pb2.Event:
    """The engineer's answer; a claim comes before it."""
    record = _record(simulation, cause)
    claim = follow(cause, "claimed", "engineer", 1, record.id)
    claim.candidate_claimed.worker = "w1"
    simulation.say(claim)
    number = record.request.number
    loss = 2.0 - number / 100 + simulation.random.random() / 10
    measured = pb.Measurements(parameters=1000 + number % 3, seconds=10.0 - number / 10, data_fingerprint="d")
    record.training.CopyFrom(pb.Training(loss=loss, benchmark=0.2 + number / 100, attempt=1))
    record.training.seeds.add(seed=1, loss=loss).measurements.CopyFrom(measured)
    return _follow(cause, "trained", record)


def judged(simulation: Simulation, cause: Cause) -> events_pb2.Event:
    """The judge's answer: every fifth candidate cannot be scored."""
    record = _record(simulation, cause)
    record.verdict.raw = 5.0
    if record.request.number % 5:
        record.verdict.fitness.CopyFrom(pb.Fitness(version="paper", value=1 - record.training.loss / 4))
    return _follow(cause, "judged", record)


def analysed(simulation: Simulation, cause: Cause) -> events_pb2.Event:
    """The analyst's answer: every seventh candidate is rejected in the end."""
    record = _record(simulation, cause)
    if record.request.number % 7 == 0:
        return rejection(cause, Rejected("analyse", "there is nothing to say", {"number": 7}), "analyst", 1)
    record.analysis.synthesis = "try again"
    return _follow(cause, "analysed", record)


def answered(cause: Cause, number: int = 1) -> events_pb2.Event:
    """A question to a mind on a candidate's behalf."""
    event = follow(cause, "answered", "researcher", 1, cause.event.candidate, suffix=str(number))
    event.mind_answered.call.CopyFrom(pb.Call(role="propose", prompt_tokens=100, completion_tokens=20, price=0.25))
    return event


_NEXT: dict[str, Callable[[Simulation, Cause], events_pb2.Event]] = {
    "candidate_requested": proposed,
    "candidate_proposed": trained,
    "candidate_trained": judged,
    "candidate_judged": analysed,
}


def _record(simulation: Simulation, cause: Cause) -> pb.Candidate:
    """The candidate as the simulation knows it, to be added to; where it does not, as the cause asks for it."""
    record = pb.Candidate(id=cause.event.candidate, request=cause.event.candidate_requested.request)
    if row := simulation.loaded.rows.get((cause.event.run, cause.event.candidate)):
        record.CopyFrom(row.record)
    return record


def _follow(cause: Cause, fact: str, record: pb.Candidate) -> events_pb2.Event:
    event = follow(cause, fact, "played", 1, record.id)
    add_part(event, fact, record)
    return event


def add_part(event: events_pb2.Event, fact: str, record: pb.Candidate) -> None:
    """The fact with the part of the record that it adds."""
    match fact:
        case "requested":
            requested = events_pb2.CandidateRequested(request=record.request, kind=record.kind, stage=record.stage)
            event.candidate_requested.CopyFrom(requested)
        case "proposed":
            proposal = events_pb2.CandidateProposed(proposal=record.proposal, stage=record.stage)
            event.candidate_proposed.CopyFrom(proposal)
        case "trained":
            training = events_pb2.CandidateTrained(training=record.training, stage=record.stage)
            event.candidate_trained.CopyFrom(training)
        case "judged":
            event.candidate_judged.verdict.CopyFrom(record.verdict)
        case "analysed":
            event.candidate_analysed.analysis.CopyFrom(record.analysis)
        case "imported":
            event.candidate_imported.record.CopyFrom(record)
        case _:
            getattr(event, f"candidate_{fact}").SetInParent()


async def catch_up(archive: Archive, bus: Bus) -> list[events_pb2.Event]:
    """Apply what is new in the log; what the store says in answer."""
    news = [message async for message in bus.read_log(start=await archive.applied() + 1)]
    await archive.apply(news, react)
    return [outgoing.event for outgoing in await archive.outbox()]
