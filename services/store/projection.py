"""The projection: the effect of one event on the archive, as a pure function shared by all backends and the replay.

A fact extends its candidate's chain only if it names the chain's head as its cause and carries the head's hash; a
training result must also come from the newest claim. Late results, duplicates, and forged or reordered events are
refused, and the log alone decides which was accepted.

The log of a forked run begins with copies of its source's events (`run.inherited`). A copy is read as the original
event, under the fork's name; its hash is that of the original, so that the chain remains valid.

Only a candidate's record is modified in place, as the last step of an accepted event: copying it for every event would
take half of the time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from services.archive.scoring import costs_of_record, measured_on
from services.chassis.bus import Logged
from services.chassis.bus.subjects import fact_of, is_forged
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain import run_state as facts
from services.domain.run_state import Spent
from services.llm.port import UNPAID
from services.store import steering
from services.store.port import CandidateRow, Change, LogRow, PoolRow, RunRow
from services.store.steering import Refused, moment, promotable, require_finite, spent_on, stepped


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message for the projection."""

    message: Logged
    log: LogRow
    readable: bool = True
    inherited: bool = False  # from the history of the forked run: causes no further events


def read(message: Logged) -> Incoming:
    """Decode a message; `readable` is False if it is not an event or does not belong to its subject."""
    body, inherited = message.body, False
    try:
        event = events_pb2.Event.FromString(body)
        readable = not is_forged(message.subject, event)
        if readable and event.HasField("run_inherited"):
            run, body, inherited = event.run, event.run_inherited.event, True
            event = events_pb2.Event.FromString(body)
            adopt(event, run)
    except DecodeError:
        readable = False
    if readable:
        log = LogRow(message.sequence, event.run, event.candidate, hashlib.sha256(body).digest(), event, True)
        return Incoming(message, log, inherited=inherited)
    run, sha256 = next(iter(message.subject.split(".")[2:-1]), ""), hashlib.sha256(message.body).digest()
    reason = "its body is not a readable event of its subject"
    log = LogRow(message.sequence, run, "", sha256, events_pb2.Event(), False, reason)
    return Incoming(message, log, readable=False)


def adopt(event: events_pb2.Event, run: str) -> None:
    """Move an event to another run: change the run in its ids."""
    own = f"{event.run}."
    for field in ("id", "cause", "retry_of"):
        value: str = getattr(event, field)
        if value.startswith(own):
            setattr(event, field, f"{run}.{value.removeprefix(own)}")
    event.run = run


def original(body: bytes) -> bytes:
    """The body of an event as first published, also for a copy in a fork's history."""
    event = events_pb2.Event.FromString(body)
    return event.run_inherited.event if event.HasField("run_inherited") else body


_PARTS: Mapping[str, tuple[str, pb.State.ValueType]] = {
    "candidate.proposed": ("proposal", pb.STATE_PROPOSED),
    "candidate.trained": ("training", pb.STATE_TRAINED),
    "candidate.judged": ("verdict", pb.STATE_JUDGED),
    "candidate.analysed": ("analysis", pb.STATE_ANALYSED),
    "candidate.rejected": ("rejection", pb.STATE_REJECTED),
}
"""The part of a record that each fact adds, and the state after it."""

DEAD_LETTER = "dead_letter"  # key in the evidence of a rejection: the sequence of the unhandled message


def project(incoming: Incoming, run: RunRow | None, row: CandidateRow | None) -> Change:
    """The effect of one event on its run and candidate."""
    try:
        return _project(incoming, run, row)
    except Refused as refused:
        return Change(replace(incoming.log, accepted=False, refused_because=str(refused)))


def _project(incoming: Incoming, run: RunRow | None, row: CandidateRow | None) -> Change:
    log, event = incoming.log, incoming.log.event
    fact = fact_of(event)
    require_finite(event)
    if fact == "run.started":
        return steering.start(log, run)
    if run is None:
        raise Refused(f"no run is called {event.run}")
    run = replace(run, changed=log.sequence)
    if fact in steering.FACTS:
        return steering.steer(log, run)
    if fact == "pool.updated":
        members = tuple(event.pool_updated.members)
        return Change(log, run=run, pool=PoolRow(event.run, log.sequence, members, event.pool_updated.entries))
    if fact.endswith(".dead"):
        return _apply_dead(incoming, run, row)
    if fact == "dead.dropped":
        return Change(log, row, _without_one_dead_letter(run))
    if fact in ("candidate.requested", "candidate.imported") and not event.retry_of:
        return _apply_request(incoming, run, row)
    if row is None:
        raise Refused(f"the run has no candidate {event.candidate}")
    if event.retry_of:
        return _retry(incoming, run, row)
    return _apply_to_candidate(fact, incoming, run, row)


def _apply_dead(incoming: Incoming, run: RunRow, row: CandidateRow | None) -> Change:
    """Apply a dead letter: the candidate is rejected unless it has ended."""
    run = replace(run, dead_letters=run.dead_letters + 1)
    if any(name == incoming.log.candidate for name, _ in run.state.ladder.climbing):  # a verification ends without it
        ended = facts.Verified(moment(incoming.log.event), incoming.log.candidate)
        return stepped(Change(incoming.log, row, run), ended)
    unfinished = row is not None and row.record.state not in (pb.STATE_ARCHIVED, pb.STATE_REJECTED)
    return Change(incoming.log, row, run, end="reject" if unfinished else None)


def _retry(incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Resume a candidate that a dead letter ended, in its state before that message; the event heads its chain."""
    event, record = incoming.log.event, row.record
    if row.ended is None or DEAD_LETTER not in record.rejection.evidence.fields:
        raise Refused(f"candidate {event.candidate} has not ended because of a dead letter")
    _require_link(event, record)
    if event.retries != record.retries + 1:
        raise Refused(f"candidate {event.candidate} was retried {record.retries} times: {event.retries} is not next")
    again = facts.Retried(moment(event), record.id, **_role(record, run))
    change = stepped(Change(incoming.log, replace(row, ended=None), _without_one_dead_letter(run)), again)
    record.ClearField("rejection")
    record.ClearField("claims")
    record.retries += 1
    record.state = _state_by_parts(record)
    _move_head(record, incoming)
    return change


def _without_one_dead_letter(run: RunRow) -> RunRow:
    return replace(run, dead_letters=max(0, run.dead_letters - 1))


def _state_by_parts(record: pb.Candidate) -> pb.State.ValueType:
    """The state of a candidate, derived from the parts of its record."""
    for part, state in (("verdict", pb.STATE_JUDGED), ("training", pb.STATE_TRAINED), ("proposal", pb.STATE_PROPOSED)):
        if record.HasField(part):  # type: ignore[arg-type]
            return state
    return pb.STATE_REQUESTED


def _apply_request(incoming: Incoming, run: RunRow, row: CandidateRow | None) -> Change:
    """Create a candidate from a seat, or an ended one from a published record."""
    log, event = incoming.log, incoming.log.event
    if row is not None:
        raise Refused(f"candidate {event.candidate} exists already")
    if not event.candidate:
        raise Refused(f"{fact_of(event)} names no candidate")
    record, imported = pb.Candidate(), event.HasField("candidate_imported")
    if imported:
        record.CopyFrom(event.candidate_imported.record)
    else:
        requested = event.candidate_requested
        record.kind, record.state, record.stage = requested.kind, pb.STATE_REQUESTED, requested.stage
        record.request.CopyFrom(requested.request)
        if requested.HasField("proposal"):
            record.proposal.CopyFrom(requested.proposal)
    record.id, record.run = event.candidate, event.run
    _move_head(record, incoming)
    new = CandidateRow(record, log.sequence, log.sequence if imported else None)
    if record.kind == pb.KIND_ABLATION and not imported:
        return stepped(Change(log, new, run), facts.AblationSeat(moment(event), record.id))
    return Change(log, new, run)


def _apply_to_candidate(fact: str, incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Apply a fact to an existing candidate."""
    log, event = incoming.log, incoming.log.event
    if fact == "mind.answered":
        return _apply_call(incoming, run, row)
    if fact == "candidate.rescored":
        change, fitness = Change(log, row, run), event.candidate_rescored.fitness
        if row.ended is not None and row.record.kind != pb.KIND_ABLATION:
            change = stepped(change, facts.Rescored(moment(event), event.candidate, fitness.value))
        row.record.verdict.fitness.CopyFrom(fitness)
        return change
    if fact == "candidate.promoted":
        return Change(log, row, run)
    if apply := {"candidate.claimed": _claim, "candidate.released": _release, "candidate.verified": _verify}.get(fact):
        return apply(incoming, run, row)
    if fact == "ablation.wanted":
        request, seeds = event.ablation_wanted, tuple(row.record.request.seeds)
        ablation = facts.AblationRequested(moment(event), event.candidate, request.component, seeds, request.by_hand)
        return stepped(Change(log, row, run), ablation)
    if fact in ("discovery.confirmed", "discovery.refuted"):
        row.record.discovery.CopyFrom(getattr(event, fact.replace(".", "_")).discovery)
        return Change(log, row, run)
    _require_head(event, row)
    if fact == "candidate.archived":
        return _archive(incoming, run, row)
    if fact not in _PARTS:
        raise Refused(f"{fact} is not a fact about candidates that this version knows")
    return _add_part(fact, incoming, run, row)


def _claim(incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Grant a claim: compare-and-set in log order."""
    event, claim = incoming.log.event, incoming.log.event.candidate_claimed
    if not claim.rung:
        _require_head(event, row)
    elif (event.candidate, claim.rung) not in run.state.ladder.climbing:
        raise Refused(f"no verification of {event.candidate} at rung {claim.rung} is open")
    newest = attempts(row.record, claim.rung)
    if event.attempt != newest + 1:
        raise Refused(f"attempt {event.attempt} is stale: attempt {newest} has begun")
    claims = row.record.claims
    claims.add(attempt=event.attempt, worker=claim.worker, token=claim.token, rung=claim.rung, alone=claim.alone)
    if not claim.rung:
        row.record.state = pb.STATE_TRAINING
    return Change(incoming.log, row, run)


def _release(incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Release a claim without a result."""
    event, release = incoming.log.event, incoming.log.event.candidate_released
    for claim in row.record.claims:
        if (claim.attempt, claim.rung) == (event.attempt, release.rung):
            claim.released = release.reason or "released"
            return Change(incoming.log, row, run)
    raise Refused(f"candidate {event.candidate} has no claim {event.attempt} at rung {release.rung}")


def attempts(record: pb.Candidate, rung: int = 0) -> int:
    """The number of claims of the candidate's training."""
    return sum(claim.rung == rung for claim in record.claims)


def _apply_call(incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Record a language-model call for the candidate."""
    call = incoming.log.event.mind_answered.call
    tokens = call.reserved_tokens or call.prompt_tokens + call.completion_tokens
    spent = Spent(tokens=tokens, money=call.reserved_price or call.price)
    change = stepped(Change(incoming.log, row, run), facts.Spending(moment(incoming.log.event), spent))
    row.record.calls.append(call)
    return change


def _add_part(fact: str, incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Add this fact's part to the record; existing parts are never overwritten."""
    event, (part, state) = incoming.log.event, _PARTS[fact]
    if fact == "candidate.trained" and event.attempt != attempts(row.record):
        raise Refused(f"attempt {event.attempt} is stale: attempt {attempts(row.record)} has begun")
    payload = getattr(event, fact.replace(".", "_", 1))
    if not payload.HasField(part):
        raise Refused(f"{fact} carries no {part}")
    change = Change(incoming.log, row, run, end="archive" if part in ("analysis", "rejection") else None)
    if part in ("training", "rejection"):
        spent = spent_on(event.candidate_trained.training, getattr(payload, part).overhead)
        change = stepped(change, facts.Spending(moment(event), spent))
    if fact == "candidate.trained":
        change = stepped(change, facts.Trained(moment(event), event.candidate))
    getattr(row.record, part).CopyFrom(getattr(payload, part))
    row.record.state = state
    _move_head(row.record, incoming)
    return change


def _verify(incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Record a verification training, which may have failed."""
    event, verified = incoming.log.event, incoming.log.event.candidate_verified
    rung = verified.rung or 1
    if (event.candidate, rung) not in run.state.ladder.climbing:
        raise Refused(f"no verification of {event.candidate} at rung {rung} is open")
    change, training = Change(incoming.log, row, run), verified.training
    change = stepped(change, facts.Spending(moment(event), spent_on(training, verified.overhead)))
    losses = tuple((seed.seed, seed.loss) for seed in training.seeds)
    result = promotable(row.record.id, training, None, run.settings)
    conditions = frozenset(" ".join(measured_on(seed)) for seed in training.seeds)
    change = stepped(change, facts.Verified(moment(event), event.candidate, rung, losses, result, conditions))
    if verified.HasField("training"):
        row.record.verifications.add(stage=verified.stage, training=training, rung=verified.rung)
    return change


def _archive(incoming: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Archive the candidate, which frees its seat."""
    record, rejected = row.record, row.record.state == pb.STATE_REJECTED
    row = replace(row, ended=incoming.log.sequence)
    ended = facts.Ended(
        time=moment(incoming.log.event),
        candidate=record.id,
        sequence=incoming.log.sequence,
        fitness=None if rejected or record.kind == pb.KIND_ABLATION else row.fitness,
        parent=record.proposal.parent or None,
        rejected=rejected,
        unpaid=UNPAID in record.rejection.evidence.fields,
        result=None if rejected else promotable(record.id, record.training, row.fitness, run.settings),
        costs=None if rejected else costs_of_record(record, run.settings),
        **_role(record, run),
    )
    change = stepped(Change(incoming.log, row, run), ended)
    if not rejected:
        record.state = pb.STATE_ARCHIVED
    _move_head(record, incoming)
    return change


def _role(record: pb.Candidate, run: RunRow) -> dict[str, bool]:
    """What a candidate is in its run, as facts name it."""
    baseline = record.kind == pb.KIND_BASELINE
    root = baseline and record.request.baseline == run.settings.baselines[0]
    return {"baseline": baseline, "root": root, "proposal": record.kind == pb.KIND_PROPOSAL}


def _require_head(event: events_pb2.Event, row: CandidateRow) -> None:
    if row.ended is not None:
        raise Refused(f"candidate {event.candidate} has ended")
    _require_link(event, row.record)


def _require_link(event: events_pb2.Event, record: pb.Candidate) -> None:
    if event.cause != record.head:
        raise Refused(f"its cause is {event.cause}, but the chain's head is {record.head}")
    if event.previous != record.head_sha256:
        raise Refused(f"its hash of {event.cause} differs from the log's: one of the two was changed")


def _move_head(record: pb.Candidate, incoming: Incoming) -> None:
    record.head, record.head_sha256 = incoming.log.event.id, incoming.log.sha256
