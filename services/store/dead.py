"""Dead letters that somebody dealt with: dropped, or their work published again. Part of the projection, as pure."""

from dataclasses import replace

from services.contracts import candidate_pb2 as pb
from services.domain import run as policy
from services.store.incoming import Incoming
from services.store.port import CandidateRow, Change, RunRow
from services.store.steering import Refused, moment, stepped

EVIDENCE = "dead_letter"
"""In the evidence of a rejection: the sequence of the message that could not be handled."""


def drop(one: Incoming, run: RunRow, row: CandidateRow | None) -> Change:
    """Nothing more is done about it."""
    return Change(one.log, row, _one_less(run))


def retry(one: Incoming, run: RunRow, row: CandidateRow) -> Change:
    """A candidate that ended because of a dead letter stands again where that message found it.

    The event is the head of its chain from now on: whoever handles it goes on from there.
    """
    event, record = one.log.event, row.record
    if row.ended is None or EVIDENCE not in record.rejection.evidence.fields:
        raise Refused(f"candidate {event.candidate} has not ended because of a dead letter")
    if event.cause != row.head_id or event.previous != row.head_sha:
        raise Refused(f"it answers {event.cause}, but the chain has gone on to {row.head_id}")
    if one.carried().retries != record.retries + 1:
        raise Refused(f"candidate {event.candidate} was taken up again {record.retries} times: this must be the next")
    baseline = record.kind == pb.KIND_BASELINE
    again = policy.Retried(
        moment(event),
        record.id,
        baseline=baseline,
        root=baseline and record.request.baseline == run.settings.baselines[0],
        proposal=record.kind == pb.KIND_PROPOSAL,
    )
    row = replace(row, head_id=event.id, head_sha=one.log.sha256, attempt=0, ended=None)
    change = stepped(Change(one.log, row, _one_less(run)), again)
    record.ClearField("rejection")
    record.retries += 1
    record.state = _stands(record)
    return change


def _one_less(run: RunRow) -> RunRow:
    return replace(run, dead_letters=max(0, run.dead_letters - 1))


def _stands(record: pb.Candidate) -> pb.State.ValueType:
    """Where a candidate is, by the parts that it has."""
    for part, state in (("verdict", pb.STATE_JUDGED), ("training", pb.STATE_TRAINED), ("proposal", pb.STATE_PROPOSED)):
        if record.HasField(part):  # type: ignore[arg-type]
            return state
    return pb.STATE_REQUESTED
