"""What one event does to the archive. Pure: rows and an event in, a Change out; both backends and the replay share it.

A fact extends its candidate's chain only if it names the chain's head as its cause and carries the head's hash; a
result of training must come from the newest claim as well. So a late worker's result, a second answer to the same
question and a forged or reordered event are all refused, and the log alone decides which was accepted.
"""

from dataclasses import replace

from services.chassis.bus import Logged
from services.chassis.bus.subjects import fact_of
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain import run as policy
from services.domain.discovery import DiscoveryPolicy
from services.domain.pool import PoolPolicy
from services.domain.run_state import Budget, RunPolicy, RunState, Spent
from services.store.port import CandidateRow, Change, LogRow, PoolRow, RunRow

_PART = {
    "candidate.proposed": ("proposal", pb.STATE_PROPOSED),
    "candidate.trained": ("training", pb.STATE_TRAINED),
    "candidate.judged": ("verdict", pb.STATE_JUDGED),
    "candidate.analysed": ("analysis", pb.STATE_ANALYSED),
    "candidate.rejected": ("rejection", pb.STATE_REJECTED),
}
PROMOTIONS = ("paper", "halving")
FINALISTS = 3
_DISCOVERIES = ("discovery.confirmed", "discovery.refuted")
_RUN_FACTS = ("run.paused", "run.resumed", "run.stopped")


class Refused(Exception):  # noqa: N818
    """The event changes nothing; the message says why."""


def policy_of(settings: events_pb2.RunSettings) -> RunPolicy:
    """The run's policy as its settings say; ValueError names an impossible one."""
    budget, pool = settings.budget, settings.pool
    return RunPolicy(
        seats=settings.seats or 1,
        budget=Budget(**{field.name: value for field, value in budget.ListFields()}),
        baselines=tuple(settings.baselines),
        seed=settings.seed,
        candidate_seeds=settings.candidate_seeds or 1,
        baseline_seeds=settings.baseline_seeds or 1,
        verify=_policy_number(settings, "verify", FINALISTS if settings.promotion in PROMOTIONS else 0),
        discovery=DiscoveryPolicy(seeds=_policy_number(settings, "verify_seeds", DiscoveryPolicy().seeds)),
        pool=PoolPolicy(pool.size, pool.parents, pool.references, pool.cold_start, pool.batch)
        if settings.HasField("pool")
        else PoolPolicy(),
    )


def _policy_number(settings: events_pb2.RunSettings, name: str, default: int) -> int:
    """A whole number among the run's policies, which come as text or numbers. Raises ValueError naming it."""
    if name not in settings.policies:
        return default
    try:
        return int(settings.policies[name])  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"policy {name} must be a whole number, not {settings.policies[name]!r}") from None


def read(logged: Logged, sha256: bytes) -> tuple[events_pb2.Event, LogRow]:
    """An event and the row that remembers it."""
    event = events_pb2.Event.FromString(logged.body)
    slim = events_pb2.Event()
    slim.CopyFrom(event)
    slim.ClearField("so_far")
    return event, LogRow(logged.sequence, event.run, event.candidate, sha256, slim, accepted=True)


def project(event: events_pb2.Event, log: LogRow, run: RunRow | None, row: CandidateRow | None) -> Change:
    """The effect of one event on its run and candidate as they stand."""
    try:
        return _project(event, log, run, row)
    except Refused as refused:
        return Change(replace(log, accepted=False, refused_because=str(refused)))


def _project(event: events_pb2.Event, log: LogRow, run: RunRow | None, row: CandidateRow | None) -> Change:
    fact = fact_of(event)
    if fact == "run.started":
        return _start(event, log, run)
    if run is None:
        raise Refused(f"no run is called {event.run}")
    run = replace(run, changed=log.sequence)
    if fact in _RUN_FACTS:
        return _steer(event, log, run)
    if fact == "pool.updated":
        members = tuple(event.pool_updated.members)
        return Change(log, run=run, pool=PoolRow(event.run, log.sequence, members, event.pool_updated.entries))
    if fact.endswith(".dead"):
        run = replace(run, dead_letters=run.dead_letters + 1)
        if event.candidate in run.state.verifying:
            return _stepped(Change(log, row, run), policy.Verified(_time(event), event.candidate, ()))
        unfinished = row is not None and row.record.state not in (pb.STATE_ARCHIVED, pb.STATE_REJECTED)
        return Change(log, row, run, end="reject" if unfinished else None)
    if fact in ("candidate.requested", "candidate.imported"):
        return _appear(event, log, run, row)
    if row is None:
        raise Refused(f"the run has no candidate {event.candidate}")
    return _grow(fact, event, log, run, row)


def _start(event: events_pb2.Event, log: LogRow, run: RunRow | None) -> Change:
    if run is not None:
        raise Refused(f"a run called {event.run} exists already")
    settings = event.run_started.settings
    try:
        rules = policy_of(settings)
    except ValueError as error:
        raise Refused(str(error)) from None
    if not settings.seats:  # an imported run: what it holds has happened elsewhere
        state = RunState(phase="finished", started=_time(event), latest=_time(event), reason=event.run_started.note)
        row = RunRow(event.run, settings, state, log.sequence, log.sequence, origin=event.run_started.note)
        return Change(log, run=row)
    state, decisions = policy.step(RunState(), policy.Started(_time(event)), rules)
    return Change(log, run=RunRow(event.run, settings, state, log.sequence, log.sequence), decisions=decisions)


def _steer(event: events_pb2.Event, log: LogRow, run: RunRow) -> Change:
    """Pause, resume (perhaps with another budget) and stop."""
    fact: policy.Fact
    if event.HasField("run_paused"):
        fact = policy.Paused(_time(event), event.run_paused.reason)
    elif event.HasField("run_resumed"):
        fact = policy.Resumed(_time(event))
        if event.run_resumed.HasField("budget"):
            settings = events_pb2.RunSettings()
            settings.CopyFrom(run.settings)
            settings.budget.CopyFrom(event.run_resumed.budget)
            run = replace(run, settings=settings)
    else:
        fact = policy.Stopped(_time(event), event.run_stopped.reason, event.run_stopped.finished)
    return _stepped(Change(log, run=run), fact)


def _appear(event: events_pb2.Event, log: LogRow, run: RunRow, row: CandidateRow | None) -> Change:
    """A seat becomes a candidate; a published record becomes one that has ended."""
    if row is not None:
        raise Refused(f"candidate {event.candidate} exists already")
    record = pb.Candidate()
    record.CopyFrom(event.so_far)
    new = CandidateRow(record, event.id, log.sha256, 0, log.sequence)
    if event.HasField("candidate_imported"):
        return Change(log, replace(new, ended=log.sequence), run)
    if record.kind == pb.KIND_ABLATION:
        return _stepped(Change(log, new, run), policy.Asked(_time(event), record.id))
    return Change(log, new, run)


def _grow(fact: str, event: events_pb2.Event, log: LogRow, run: RunRow, row: CandidateRow) -> Change:
    """One more part of a candidate that exists."""
    record = pb.Candidate()
    record.CopyFrom(row.record)
    if fact == "mind.answered":
        record.calls.append(event.mind_answered.call)
        call = event.mind_answered.call
        spent = Spent(tokens=call.prompt_tokens + call.completion_tokens, money=call.price)
        return _stepped(Change(log, replace(row, record=record), run), policy.Spending(_time(event), spent))
    if fact == "candidate.rescored":
        record.verdict.fitness.CopyFrom(event.candidate_rescored.fitness)
        return Change(log, replace(row, record=record), run)
    if fact == "candidate.promoted" or (fact == "candidate.claimed" and record.id in run.state.verifying):
        return Change(log, row, run)
    if fact == "candidate.verified":
        return _verify(event, log, run, replace(row, record=record))
    if fact in _DISCOVERIES:
        record.discovery.CopyFrom(event.so_far.discovery)
        return Change(log, replace(row, record=record), run)
    _must_extend(event, row)
    if fact == "candidate.claimed":
        if event.attempt <= row.attempt:
            raise Refused(f"attempt {event.attempt} is stale: attempt {row.attempt} has begun")
        record.state = pb.STATE_TRAINING
        return Change(log, replace(row, record=record, attempt=event.attempt), run)
    if fact == "candidate.archived":
        return _archive(event, log, run, replace(row, record=record))
    if fact not in _PART:
        raise Refused(f"{fact} is no part of a candidate's way that this version knows")
    return _add_part(fact, event, log, run, replace(row, record=record))


def _add_part(fact: str, event: events_pb2.Event, log: LogRow, run: RunRow, row: CandidateRow) -> Change:
    """Take over just the part that this fact may add: nobody rewrites what others measured."""
    part, state = _PART[fact]
    if fact == "candidate.trained" and event.attempt != row.attempt:
        raise Refused(f"attempt {event.attempt} is stale: attempt {row.attempt} has begun")
    if not event.so_far.HasField(part):  # type: ignore[arg-type]
        raise Refused(f"{fact} carries no {part}")
    record = row.record
    getattr(record, part).CopyFrom(getattr(event.so_far, part))
    record.state = state
    row = replace(row, record=record, head_id=event.id, head_sha=log.sha256)
    change = Change(log, row, run)
    if fact == "candidate.trained":
        return _stepped(change, policy.Spending(_time(event), _training_spent(record.training)))
    if fact == "candidate.rejected":
        return replace(change, end="archive")
    return replace(change, end="archive") if fact == "candidate.analysed" else change


def _verify(event: events_pb2.Event, log: LogRow, run: RunRow, row: CandidateRow) -> Change:
    """A second training, on data that no selection has seen; without a result where it failed."""
    if event.candidate not in run.state.verifying:
        raise Refused(f"no verification of {event.candidate} is open")
    losses: list[tuple[int, float]] = []
    change = Change(log, row, run)
    for verification in event.so_far.verifications:
        row.record.verifications.append(verification)
        losses += [(seed.seed, seed.loss) for seed in verification.training.seeds]
        change = _stepped(change, policy.Spending(_time(event), _training_spent(verification.training)))
    return _stepped(change, policy.Verified(_time(event), event.candidate, tuple(losses)))


def _archive(event: events_pb2.Event, log: LogRow, run: RunRow, row: CandidateRow) -> Change:
    """The outcome: frees the seat."""
    record = row.record
    rejected = record.state == pb.STATE_REJECTED
    if not rejected:
        record.state = pb.STATE_ARCHIVED
    row = replace(row, head_id=event.id, head_sha=log.sha256, ended=log.sequence)
    baseline = record.kind == pb.KIND_BASELINE
    ended = policy.Ended(
        time=_time(event),
        candidate=record.id,
        sequence=log.sequence,
        fitness=None if rejected or record.kind == pb.KIND_ABLATION else row.fitness,
        parent=record.proposal.parent or None,
        baseline=baseline,
        root=baseline and record.request.baseline == run.settings.baselines[0],
        rejected=rejected,
        proposal=record.kind == pb.KIND_PROPOSAL,
    )
    return _stepped(Change(log, row, run), ended)


def _must_extend(event: events_pb2.Event, row: CandidateRow) -> None:
    if row.ended is not None:
        raise Refused(f"candidate {event.candidate} has ended")
    if event.cause != row.head_id:
        raise Refused(f"it answers {event.cause}, but the chain has gone on to {row.head_id}")
    if event.previous != row.head_sha:
        raise Refused(f"its hash of {event.cause} is not that of the log: one of the two was changed")


def _stepped(change: Change, fact: policy.Fact) -> Change:
    assert change.run is not None  # noqa: S101 - every caller has one
    state, decisions = policy.step(change.run.state, fact, policy_of(change.run.settings))
    return replace(change, run=replace(change.run, state=state), decisions=decisions)


def _training_spent(training: pb.Training) -> Spent:
    measured = [seed.measurements for seed in training.seeds]
    return Spent(
        training_seconds=sum(one.seconds for one in measured),
        gpu_seconds=sum(one.gpu_seconds for one in measured),
        flops=sum(one.flops for one in measured),
    )


def _time(event: events_pb2.Event) -> float:
    return event.time.seconds + event.time.nanos / 1e9
