"""Rows of the archive as the messages of its gRPC service."""

from google.protobuf.timestamp_pb2 import Timestamp

from services.contracts import archive_pb2, candidate_pb2
from services.store.port import LogRow, RunRow


def status(row: RunRow, counts: dict[int, int], best: archive_pb2.TreeNode | None) -> archive_pb2.RunStatus:
    """Where a run stands."""
    state = row.state
    return archive_pb2.RunStatus(
        run=row.run,
        settings=row.settings,
        phase=state.phase,
        states={state_name(number): count for number, count in counts.items()},
        in_flight=len(state.in_flight),
        proposals_ended=state.proposals_ended,
        best=best,
        spent=archive_pb2.Spent(
            seconds=state.seconds(state.latest),
            training_seconds=state.spent.training_seconds,
            gpu_seconds=state.spent.gpu_seconds,
            tokens=state.spent.tokens,
            money=state.spent.money,
            flops=state.spent.flops,
        ),
        started=_timestamp(state.started),
        changed=_timestamp(state.latest),
        sequence=row.changed,
        stop_reason=state.reason,
        dead_letters=row.dead_letters,
        climbing=len(state.ladder.climbing),
        origin=row.origin,
    )


def node(record: candidate_pb2.Candidate) -> archive_pb2.TreeNode:
    """A candidate as one node of the tree; what was not measured is absent."""
    slim = archive_pb2.TreeNode(
        id=record.id,
        parent=record.proposal.parent,
        name=record.proposal.name,
        state=record.state,
        stage=record.stage,
        kind=record.kind,
        number=record.request.number,
    )
    if record.verdict.HasField("fitness"):
        slim.fitness = record.verdict.fitness.value
    if record.training.HasField("loss"):
        slim.loss = record.training.loss
    if record.training.HasField("benchmark"):
        slim.benchmark = record.training.benchmark
    if record.training.seeds:
        slim.parameters = record.training.seeds[0].measurements.parameters
    return slim


def slim(record: candidate_pb2.Candidate) -> candidate_pb2.Candidate:
    """A copy without programs, per-item results and prose, with the last point of each curve: what a table shows."""
    copy = candidate_pb2.Candidate()
    copy.CopyFrom(record)
    for field in ("program", "motivation_embedding", "check"):
        copy.proposal.ClearField(field)
    for seed in copy.training.seeds:
        del seed.curve[:-1]
        seed.ClearField("block_losses")
        for score in seed.scores:
            score.ClearField("correct")
    copy.training.ClearField("program")
    copy.training.ClearField("revisions")
    copy.ClearField("analysis")
    copy.ClearField("calls")
    return copy


def link(row: LogRow) -> archive_pb2.ChainLink:
    """One event of a candidate's chain."""
    return archive_pb2.ChainLink(
        sequence=row.sequence,
        event=row.event,
        sha256=row.sha256.hex(),
        accepted=row.accepted,
        refused_because=row.refused_because,
    )


def state_name(number: int) -> str:
    """As in "training"."""
    return candidate_pb2.State.Name(candidate_pb2.State.ValueType(number)).removeprefix("STATE_").lower()


def _timestamp(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
