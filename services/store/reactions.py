"""Events that the store publishes after a change: seats, outcomes, pool updates, the end of a run."""

from collections.abc import Sequence

from services.chassis.bus.subjects import fact_of
from services.chassis.errors import Rejected
from services.chassis.events import Cause, follow, rejection
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.discovery import Finding, Outcome
from services.domain.ladder import Promote
from services.domain.pool import PoolUpdate
from services.domain.run_state import Ablation, Decision, Finish, Seat
from services.store.port import Change, RunRow
from services.store.projection import DEAD_LETTER
from services.store.steering import policy_of

SERVICE = "store"
GIVEN = "given"
"""The `mind` of proposals whose program the user supplied."""


def react(change: Change, event: events_pb2.Event, sha256: bytes) -> Sequence[events_pb2.Event]:
    """The events that follow from one applied event, each caused by it."""
    cause = Cause(event, sha256)
    events = []
    if change.end and change.candidate:
        events.append(_end(change.candidate.record, change.end, cause))
    if change.run:  # without one there are no decisions
        events += [_event_of(decision, cause, change, change.run) for decision in change.decisions]
    return events


def _end(record: pb.Candidate, end: str, cause: Cause) -> events_pb2.Event:
    if end == "archive":
        archived = follow(cause, "archived", SERVICE, 1, cause.event.candidate)
        archived.candidate_archived.SetInParent()
        return archived
    head = events_pb2.Event(id=record.head, run=record.run, candidate=record.id, retries=record.retries)
    dead = cause.event.dead
    ended = Rejected(dead.consumer.split("-")[0] or "policy", dead.reason, {DEAD_LETTER: dead.sequence})
    return rejection(Cause(head, record.head_sha256), ended, SERVICE, 1)


def _event_of(decision: Decision, cause: Cause, change: Change, run: RunRow) -> events_pb2.Event:
    match decision:
        case Seat():
            return _request(decision, cause, run)
        case Ablation():
            return _ablation(decision, cause, run)
        case PoolUpdate():
            event = follow(cause, "updated", SERVICE, 1, suffix=f"pool-{decision.number}")
            members = [
                events_pb2.PoolMember(candidate=member.id, fitness=member.fitness) for member in decision.members
            ]
            event.pool_updated.CopyFrom(events_pb2.PoolUpdated(members=members, entries=decision.count))
            return event
        case Promote():
            return _promotion(decision, cause, run)
        case Finding():
            return _discovery(decision, cause, run)
        case Finish(reason):
            after = f"after-{cause.event.candidate or fact_of(cause.event)}"
            if change.candidate is not None and change.candidate.record.retries:
                after += f"-again-{change.candidate.record.retries}"
            event = follow(cause, "stopped", SERVICE, cause.event.attempt, suffix=after.replace(".", "-"))
            event.run_stopped.CopyFrom(events_pb2.RunStopped(reason=reason, finished=not run.state.root_failed))
            return event


def _request(seat: Seat, cause: Cause, run: RunRow) -> events_pb2.Event:
    requested = events_pb2.CandidateRequested(
        kind=pb.KIND_BASELINE if seat.baseline else pb.KIND_PROPOSAL,
        stage=run.settings.scale,
        request=pb.Request(number=seat.number, baseline=seat.baseline, seeds=seat.seeds, mind=run.settings.mind),
    )
    for own in run.settings.programs:
        if own.name in (seat.baseline, seat.seed_program):
            proposal = pb.Proposal(name=own.name, motivation=own.motivation, program=own.program, mind=GIVEN)
            requested.proposal.CopyFrom(proposal)
            break
    event = follow(cause, "requested", SERVICE, 1, seat.candidate)
    event.candidate_requested.CopyFrom(requested)
    return event


def _ablation(ablation: Ablation, cause: Cause, run: RunRow) -> events_pb2.Event:
    """A request for an ablation; the researcher writes the program without the component."""
    request = pb.Request(
        number=ablation.number,
        seeds=ablation.seeds,
        ablation_of=ablation.of,
        without_component=ablation.component,
        mind=run.settings.mind,
    )
    event = follow(cause, "requested", SERVICE, 1, ablation.candidate)
    event.candidate_requested.CopyFrom(
        events_pb2.CandidateRequested(kind=pb.KIND_ABLATION, stage=run.settings.scale, request=request)
    )
    return event


def _promotion(promote: Promote, cause: Cause, run: RunRow) -> events_pb2.Event:
    """Work for an engineer of the next stage, which reads the program from the archive."""
    again = "-again" if cause.event.HasField("run_forked") else ""  # the history contains the first promotion
    suffix = f"round-{promote.round}-rung-{promote.rung}{again}"
    event = follow(cause, "promoted", SERVICE, 1, promote.candidate, suffix=suffix)
    event.candidate_promoted.CopyFrom(
        events_pb2.CandidatePromoted(
            stage=promote.stage.scale,
            seeds=promote.seeds,
            reason=promote.reason,
            scale_overrides=dict(promote.stage.overrides),
            rung=promote.rung,
            rungs=len(policy_of(run.settings).stages),
            match_parameters=promote.match,
        )
    )
    return event


def _discovery(finding: Finding, cause: Cause, run: RunRow) -> events_pb2.Event:
    """The verdict on a claim, with its statistics."""
    confirmed, interval = finding.outcome is Outcome.CONFIRMED, finding.interval
    discovery = pb.Discovery(
        confirmed=confirmed,
        stage=policy_of(run.settings).stages[-1].scale,
        control=finding.control or "",
        effect=finding.effect,
        interval=pb.Interval(low=interval.low, high=interval.high, level=interval.level) if interval else None,
        p_value=finding.p,
        adjusted_p_value=finding.adjusted_p,
        tried=finding.tried,
        method=f"paired one-sided t-test over {len(finding.seeds)} fresh seeds, corrected: {finding.reason}",
        outcome=finding.outcome.value,
        reason=finding.reason,
        seeds=finding.seeds,
        controls=finding.controls,
    )
    name = "confirmed" if confirmed else "refuted"
    event = follow(cause, name, SERVICE, 1, finding.candidate, suffix=f"round-{run.state.ladder.rounds}")
    (event.discovery_confirmed if confirmed else event.discovery_refuted).discovery.CopyFrom(discovery)
    return event
