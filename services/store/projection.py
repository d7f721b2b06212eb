"""What one event does to the archive: rows and an event in, a Change out; both backends and the replay share it.

A fact extends its candidate's chain only if it names the chain's head as its cause and carries the head's hash; a
result of training must come from the newest claim as well. So a late worker's result, a second answer to the same
question and a forged or reordered event are all refused, and the log alone decides which was accepted.

No database and no clock here. A candidate's record is the one thing that is changed in place, as the last step of an
event that is accepted: copying it for every event would be half of the work.
"""

from dataclasses import replace

from services.chassis.bus.subjects import fact_of
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain import run as policy
from services.domain.run_state import Spent
from services.llm.port import UNPAID
from services.store import dead, steering
from services.store.incoming import PART_OF, Incoming
from services.store.policies import promotable
from services.store.port import CandidateRow, Change, PoolRow, RunRow
from services.store.steering import Refused, moment, stepped

_STATE_AFTER = {
    "candidate.proposed": pb.STATE_PROPOSED,
    "candidate.trained": pb.STATE_TRAINED,
    "candidate.judged": pb.STATE_JUDGED,
    "candidate.analysed": pb.STATE_ANALYSED,
    "candidate.rejected": pb.STATE_REJECTED,
}
_LAST = ("candidate.analysed", "candidate.rejected")
_DISCOVERIES = ("discovery.confirmed", "discovery.refuted")


def project(one: Incoming, run: RunRow | None, row: CandidateRow | None) -> Change:
    """The effect of one event on its run and candidate as they stand."""
    try:
        return _project(one, run, row)
    except Refused as refused:
        return Change(replace(one.log, accepted=False, refused_because=str(refused)))


def _project(one: Incoming, run: RunRow | None, row: CandidateRow | None) -> Change:
    log, event = one.log, one.log.event
    fact = fact_of(event)
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
        return _die(one, run, row)
    if fact == "dead.dropped":
        return dead.drop(one, run, row)
    if fact in ("candidate.requested", "candidate.imported") and not event.retry_of:
        return _appear(one, run, row)
    if row is None:
        raise Refused(f"the run has no candidate {event.candidate}")
    if event.retry_of:
        return dead.retry(one, run, row)
    return _grow(fact, one, run, row)


def _die(one: Incoming, run: RunRow, row: CandidateRow | None) -> Change:
    """A message that nobody could handle: its candidate ends, unless it has already."""
    run = replace(run, dead_letters=run.dead_letters + 1)
    if run.state.ladder.is_climbing(one.log.candidate):
        return stepped(Change(one.log, row, run), policy.Verified(moment(one.log.event), one.log.candidate))
    unfinished = row is not None and row.record.state not in (pb.STATE_ARCHIVED, pb.STATE_REJECTED)
    return Change(one.log, row, run, end="reject" if unfinished else None)


def _appear(one: Incoming, run: RunRow, row: CandidateRow | None) -> Change:
    """A seat becomes a candidate; a published record becomes one that has ended."""
    log, event = one.log, one.log.event
    if row is not None:
        raise Refused(f"candidate {event.candidate} exists already")
    record = one.carried()
    if record.id != event.candidate:
        raise Refused(f"{fact_of(event)} carries no candidate {event.candidate}")
    new = CandidateRow(record, event.id, log.sha256, 0, log.sequence)
    if event.HasField("candidate_imported"):
        return Change(log, replace(new, ended=log.sequence), run)
    if record.kind == pb.KIND_ABLATION:
        return stepped(Change(log, new, run), policy.Asked(moment(event), record.id))
    return Change(log, new, run)


def _grow(fact: str, one: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """One more part of a candidate that exists."""
    log, event = one.log, one.log.event
    if fact == "mind.answered":
        return _think(one, run, row)
    if fact == "candidate.rescored":
        row.record.verdict.fitness.CopyFrom(event.candidate_rescored.fitness)
        return Change(log, row, run)
    if fact == "candidate.promoted" or (fact == "candidate.claimed" and run.state.ladder.is_climbing(event.candidate)):
        return Change(log, row, run)
    if fact == "candidate.verified":
        return _verify(one, run, row)
    if fact == "ablation.wanted":
        wanted = event.ablation_wanted
        seeds = tuple(row.record.request.seeds)
        fact_of_it = policy.Wanted(moment(event), event.candidate, wanted.component, seeds, wanted.by_hand)
        return stepped(Change(log, row, run), fact_of_it)
    if fact in _DISCOVERIES:
        row.record.discovery.CopyFrom(one.carried().discovery)
        return Change(log, row, run)
    _must_extend(event, row)
    if fact == "candidate.claimed":
        if event.attempt <= row.attempt:
            raise Refused(f"attempt {event.attempt} is stale: attempt {row.attempt} has begun")
        row.record.state = pb.STATE_TRAINING
        return Change(log, replace(row, attempt=event.attempt), run)
    if fact == "candidate.archived":
        return _archive(one, run, row)
    if fact not in _STATE_AFTER:
        raise Refused(f"{fact} is no part of a candidate's way that this version knows")
    return _add_part(fact, one, run, row)


def _think(one: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """A question that was put to a mind on the candidate's behalf."""
    call = one.log.event.mind_answered.call
    spent = Spent(tokens=call.prompt_tokens + call.completion_tokens, money=call.price)
    change = stepped(Change(one.log, row, run), policy.Spending(moment(one.log.event), spent))
    row.record.calls.append(call)
    return change


def _add_part(fact: str, one: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """Take over just the part that this fact may add: nobody rewrites what others measured."""
    event, part, state = one.log.event, PART_OF[fact], _STATE_AFTER[fact]
    if fact == "candidate.trained" and event.attempt != row.attempt:
        raise Refused(f"attempt {event.attempt} is stale: attempt {row.attempt} has begun")
    carried = one.carried()
    if not carried.HasField(part):  # type: ignore[arg-type]
        raise Refused(f"{fact} carries no {part}")
    row = replace(row, head_id=event.id, head_sha=one.log.sha256)
    change = Change(one.log, row, run, end="archive" if fact in _LAST else None)
    if fact == "candidate.trained":
        change = stepped(change, policy.Spending(moment(event), _training_spent(carried.training)))
    getattr(row.record, part).CopyFrom(getattr(carried, part))
    row.record.state = state
    return change


def _verify(one: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """A second training, on data that no selection has seen; without a result where it failed."""
    event, carried = one.log.event, one.carried()
    rung = event.candidate_verified.rung or 1
    if (event.candidate, rung) not in run.state.ladder.climbing:
        raise Refused(f"no verification of {event.candidate} at rung {rung} is open")
    change, measured = Change(one.log, row, run), pb.Training()
    for verification in carried.verifications:
        measured = verification.training
        change = stepped(change, policy.Spending(moment(event), _training_spent(measured)))
    losses = tuple((seed.seed, seed.loss) for seed in measured.seeds)
    fact = policy.Verified(moment(event), event.candidate, rung, losses, promotable(row.record.id, measured, None))
    change = stepped(change, fact)
    row.record.verifications.extend(carried.verifications)
    return change


def _archive(one: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """The outcome: frees the seat."""
    record = row.record
    rejected = record.state == pb.STATE_REJECTED
    row = replace(row, head_id=one.log.event.id, head_sha=one.log.sha256, ended=one.log.sequence)
    baseline = record.kind == pb.KIND_BASELINE
    ended = policy.Ended(
        time=moment(one.log.event),
        candidate=record.id,
        sequence=one.log.sequence,
        fitness=None if rejected or record.kind == pb.KIND_ABLATION else row.fitness,
        parent=record.proposal.parent or None,
        baseline=baseline,
        root=baseline and record.request.baseline == run.settings.baselines[0],
        rejected=rejected,
        proposal=record.kind == pb.KIND_PROPOSAL,
        unpaid=UNPAID in record.rejection.evidence.fields,
        result=None if rejected else promotable(record.id, record.training, row.fitness),
    )
    change = stepped(Change(one.log, row, run), ended)
    if not rejected:
        record.state = pb.STATE_ARCHIVED
    return change


def _must_extend(event: events_pb2.Event, row: CandidateRow) -> None:
    if row.ended is not None:
        raise Refused(f"candidate {event.candidate} has ended")
    if event.cause != row.head_id:
        raise Refused(f"it answers {event.cause}, but the chain has gone on to {row.head_id}")
    if event.previous != row.head_sha:
        raise Refused(f"its hash of {event.cause} is not that of the log: one of the two was changed")


def _training_spent(training: pb.Training) -> Spent:
    seconds = gpu_seconds = flops = 0.0
    for seed in training.seeds:
        measured = seed.measurements
        seconds += measured.seconds
        gpu_seconds += measured.gpu_seconds
        flops += measured.flops
    return Spent(training_seconds=seconds, gpu_seconds=gpu_seconds, flops=flops)
