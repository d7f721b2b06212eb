"""An event as a row, a line or a JSON object. What it does not say is None."""

from typing import TypedDict

from services.chassis.bus import Logged
from services.chassis.bus.subjects import fact_of
from services.console.tables import number
from services.contracts import events_pb2


class EventRow(TypedDict):
    """One event, as `asi-arch watch --json` prints it. Time is UTC; loss in nats per token, judge 1–10."""

    sequence: int
    time: str
    id: str
    run: str
    fact: str
    candidate: str | None
    name: str | None
    stage: str | None
    service: str
    attempt: int
    loss: float | None
    benchmark: float | None
    judge: float | None
    fitness: float | None
    reason: str | None


def event_row(logged: Logged, earlier: EventRow | None = None) -> EventRow:
    """A message of the log. Raises ValueError for one that holds no fact that this version knows.

    What the fact does not carry is taken from `earlier`, the one before it of the same candidate, where there is one.
    """
    event = events_pb2.Event.FromString(logged.body)
    asked, training, verdict = (
        event.candidate_requested,
        event.candidate_trained.training,
        event.candidate_judged.verdict,
    )
    given = event.candidate_proposed.proposal
    fitness = event.candidate_rescored.fitness if event.HasField("candidate_rescored") else verdict.fitness
    scored = event.HasField("candidate_rescored") or verdict.HasField("fitness")
    known: EventRow | dict[str, None] = earlier or {}
    stage = asked.stage or event.candidate_promoted.stage or event.candidate_verified.stage
    return EventRow(
        sequence=logged.sequence,
        time=event.time.ToDatetime().isoformat(timespec="milliseconds") + "Z",
        id=event.id,
        run=event.run,
        fact=fact_of(event),
        candidate=event.candidate or None,
        name=given.name or asked.request.baseline or known.get("name"),
        stage=stage or event.candidate_proposed.stage or event.candidate_trained.stage or known.get("stage"),
        service=event.service,
        attempt=event.attempt,
        loss=training.loss if training.HasField("loss") else known.get("loss"),
        benchmark=training.benchmark if training.HasField("benchmark") else known.get("benchmark"),
        judge=verdict.raw if verdict.HasField("raw") else known.get("judge"),
        fitness=fitness.value if scored else known.get("fitness"),
        reason=_reason(event),
    )


def line(row: EventRow) -> str:
    """In words, as in "07:31:02 c000003 trained DeltaNet: loss 1.3798"."""
    fact = row["fact"].removeprefix("candidate.")
    who = " ".join(part for part in (row["candidate"], fact, row["name"]) if part)
    told = _numbers(row)
    return f"{row['time'][11:19]} {who}" + (f": {told}" if told else "")


def _numbers(row: EventRow) -> str:
    """What this fact is about, not what the record held before."""
    fact = row["fact"]
    if fact in ("candidate.rejected", "run.stopped") or row["reason"]:
        return row["reason"] or ""
    if fact == "candidate.trained":
        return f"loss {number(row['loss'])}, benchmark {number(row['benchmark'], '.3f')}"
    if fact in ("candidate.judged", "candidate.rescored"):
        return f"judge {number(row['judge'], '.1f')}, fitness {number(row['fitness'], '.3f')}"
    if fact == "candidate.archived" and row["fitness"] is not None:
        return f"fitness {number(row['fitness'], '.3f')}"
    return ""


def _reason(event: events_pb2.Event) -> str | None:
    """The sentence that an event carries, whatever its field is called."""
    match event.WhichOneof("fact"):
        case "candidate_rejected":
            rejection = event.candidate_rejected.rejection
            return f"{rejection.stage}: {rejection.reason}"
        case "candidate_claimed":
            return f"by {event.candidate_claimed.worker}" + (", resumed" if event.candidate_claimed.resumed else "")
        case "candidate_promoted":
            return event.candidate_promoted.reason or None
        case "candidate_verified":
            return event.candidate_verified.reason or None
        case "candidate_rescored":
            return event.candidate_rescored.reason or None
        case "run_paused":
            return event.run_paused.reason or None
        case "run_resumed":
            return event.run_resumed.reason or None
        case "run_stopped":
            return event.run_stopped.reason or None
        case "mind_answered":
            call = event.mind_answered.call
            return call.error or f"{call.role} by {call.model}, {call.prompt_tokens + call.completion_tokens} tokens"
        case "dead":
            return f"{event.dead.consumer}: {event.dead.reason}"
        case _:
            return None
