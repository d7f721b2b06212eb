"""Candidates as plain rows: what `list --json` prints and what tables show. What was not measured is None."""

from collections.abc import Sequence
from typing import Any, TypedDict

from google.protobuf.message import Message

from services.console.options import one_of
from services.contracts import archive_pb2, candidate_pb2


class Row(TypedDict):
    """One candidate. Loss in nats per token, benchmark 0–1, judge 1–10, seconds of training and evaluation."""

    id: str
    name: str
    run: str
    parent: str | None
    kind: str
    stage: str
    state: str
    loss: float | None
    loss_difference: float | None
    benchmark: float | None
    judge: float | None
    fitness: float | None
    fitness_low: float | None
    fitness_high: float | None
    parameters: int | None
    seconds: float | None
    precision: str | None
    reason: str | None


class Node(TypedDict):
    """One node of the tree."""

    id: str
    parent: str | None
    name: str
    fitness: float | None
    loss: float | None
    state: str
    kind: str


def row(record: candidate_pb2.Candidate, loss_of_root: float | None = None) -> Row:
    """A candidate's row; `loss_of_root` is what the difference refers to."""
    training, verdict = record.training, record.verdict
    loss = training.loss if training.HasField("loss") else None
    interval = verdict.fitness.interval if verdict.fitness.HasField("interval") else None
    return Row(
        id=record.id,
        name=record.proposal.name or record.request.baseline,
        run=record.run,
        parent=record.proposal.parent or None,
        kind=kind_name(record.kind),
        stage=record.stage,
        state=state_name(record.state),
        loss=loss,
        loss_difference=loss - loss_of_root if loss is not None and loss_of_root is not None else None,
        benchmark=training.benchmark if training.HasField("benchmark") else None,
        judge=verdict.raw if verdict.HasField("raw") else None,
        fitness=verdict.fitness.value if verdict.HasField("fitness") else None,
        fitness_low=interval.low if interval else None,
        fitness_high=interval.high if interval else None,
        parameters=training.seeds[0].measurements.parameters if training.seeds else None,
        seconds=sum(seed.measurements.seconds for seed in training.seeds) if training.seeds else None,
        precision=training.seeds[0].measurements.precision or None if training.seeds else None,
        reason=record.rejection.reason if record.HasField("rejection") else None,
    )


def tree_row(node: archive_pb2.TreeNode) -> Node:
    """A node of the tree as plain values."""
    return Node(
        id=node.id,
        parent=node.parent or None,
        name=node.name,
        fitness=node.fitness if node.HasField("fitness") else None,
        loss=node.loss if node.HasField("loss") else None,
        state=state_name(node.state),
        kind=kind_name(node.kind),
    )


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Best fitness first; those without one last, in the order given."""
    return sorted(rows, key=lambda row: (row["fitness"] is None, -(row["fitness"] or 0.0)))


def state_name(number: candidate_pb2.State.ValueType) -> str:
    """As in "training"."""
    return candidate_pb2.State.Name(number).removeprefix("STATE_").lower()


def kind_name(number: candidate_pb2.Kind.ValueType) -> str:
    """As in "baseline"."""
    return candidate_pb2.Kind.Name(number).removeprefix("KIND_").lower()


def states_of(names: Sequence[str]) -> list[candidate_pb2.State.ValueType]:
    """States by their lower-case names. Raises SettingsError listing them."""
    known = {state_name(number): number for number in candidate_pb2.State.values() if number}
    for name in names:
        one_of("--state", name, tuple(known))
    return [known[name] for name in names]


def as_dict(message: Message) -> dict[str, Any]:
    """A message of the contracts as JSON with the contracts' names."""
    from google.protobuf.json_format import MessageToDict

    plain: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return plain
