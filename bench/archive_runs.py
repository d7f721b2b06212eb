"""A run and records of realistic sizes for the benchmark of the archive."""

import random

import numpy as np

from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.events import Cause, body_of, first, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2

RUN = "bench"
EMBEDDER = "bench-1024"
DIMENSION = 1024
STRUCTURES = 200
TEXT = "The gate forgets what the state no longer needs. " * 40
HEAD = """class DeltaNet(nn.Module):
    def __init__(self, d_model):
        super().__init__()
"""
LAYER = """
    def mix_{n}(self, q, k, v, beta):
        state = torch.einsum("bhlk,bhlv->bhkv", k * beta.unsqueeze(-1), v) * {a}
        out = torch.einsum("bhlk,bhkv->bhlv", q / {b}, state) + self.skip_{n}(v)
        return self.norm(out * torch.sigmoid(self.gate(q)) if {c} else out)
"""


class Log:
    """A log in memory that numbers messages like the stream."""

    def __init__(self) -> None:
        self.messages: list[Logged] = []

    def write(self, event: events_pb2.Event) -> Logged:
        """The next message."""
        self.messages.append(logged(len(self.messages) + 1, event))
        return self.messages[-1]


def logged(sequence: int, event: events_pb2.Event) -> Logged:
    """The event as the stream stores it."""
    return Logged(sequence, subject_of(event), body_of(event))


def program(number: int) -> str:
    """About 8 KB of Python, of one of a hundred structures."""
    chance = random.Random(number % STRUCTURES)
    layers = (
        LAYER.format(n=n, a=chance.randrange(5), b=chance.randrange(1, 5), c=chance.randrange(2)) for n in range(20)
    )
    return HEAD + "".join(layers)


def embedding(number: int) -> list[float]:
    """A vector similar to those of neighbouring numbers."""
    centre = np.random.default_rng(number // 50).standard_normal(DIMENSION)
    values: list[float] = (centre + np.random.default_rng(number).standard_normal(DIMENSION) / 2).tolist()
    return values


def parent_of(number: int) -> str:
    """A parent among the 500 earlier ones, so that paths in an archive of 100,000 have about 400 nodes."""
    return f"c{random.Random(number).randrange(max(1, number - 500), number):06d}"


def propose(record: pb.Candidate, number: int, parent: str) -> None:
    """Add the proposal."""
    record.proposal.CopyFrom(
        pb.Proposal(
            name=f"net_{number}", motivation=TEXT, program=program(number), parent=parent, embedder=EMBEDDER,
            motivation_embedding=embedding(number), moves=[f"move_{number % 80}"], structure=f"{number % STRUCTURES}",
        )
    )  # fmt: skip
    record.state = pb.STATE_PROPOSED


def train(record: pb.Candidate, number: int) -> None:
    """Add the training."""
    loss = 3 - random.Random(number).random()
    record.training.CopyFrom(pb.Training(loss=loss, benchmark=0.3, attempt=1))
    for seed in range(3):
        curve = [pb.CurvePoint(step=step, tokens=step * 2048, train_loss=4.0, loss=4.0) for step in range(50)]
        measured = pb.Measurements(parameters=400_000 + number, seconds=60.0)
        record.training.seeds.add(seed=seed, loss=loss, curve=curve, block_losses=[loss] * 64, measurements=measured)
    record.state = pb.STATE_TRAINED


def judge(record: pb.Candidate) -> None:
    """Add the verdict."""
    record.verdict.raw = 5.0
    record.verdict.justification = TEXT
    record.verdict.fitness.value = 1 - record.training.loss / 4
    record.state = pb.STATE_JUDGED


def analyse(record: pb.Candidate) -> None:
    """Add the analysis."""
    record.analysis.results = record.analysis.synthesis = TEXT
    record.state = pb.STATE_ANALYSED


def start(candidates: int) -> events_pb2.Event:
    """The paper's pool, two baselines."""
    event = first(RUN, "started", "console")
    event.run_started.settings.CopyFrom(
        events_pb2.RunSettings(
            scale="tiny", seats=4, seed=1, baselines=["delta_net", "gated_delta_net"],
            pool=events_pb2.PoolSettings(size=50, parents=10, references=4, cold_start=200, batch=50),
            budget=events_pb2.Budget(candidates=candidates),
        )
    )  # fmt: skip
    return event


def way(request: events_pb2.Event) -> list[events_pb2.Event]:
    """All events of one candidate between its request and its end."""
    record, cause, events = pb.Candidate(), Cause.published(request), []
    record.request.CopyFrom(request.candidate_requested.request)
    record.id, record.stage = request.candidate, request.candidate_requested.stage
    number = record.request.number
    propose(
        record,
        number,
        "" if number < 3 else f"c{random.Random(number).randrange(max(1, number - 500), number - 1):06d}",
    )
    for fact in ("proposed", "claimed", "trained", "judged", "analysed"):
        event = follow(cause, fact, "bench", 1, record.id)
        match fact:
            case "proposed":
                event.candidate_proposed.CopyFrom(
                    events_pb2.CandidateProposed(proposal=record.proposal, stage=record.stage)
                )
            case "trained":
                train(record, number)
                event.candidate_trained.CopyFrom(
                    events_pb2.CandidateTrained(training=record.training, stage=record.stage)
                )
            case "judged":
                judge(record)
                event.candidate_judged.verdict.CopyFrom(record.verdict)
            case "analysed":
                analyse(record)
                event.candidate_analysed.analysis.CopyFrom(record.analysis)
            case _:
                event.candidate_claimed.SetInParent()
        events.append(event)
        if fact != "claimed":
            cause = Cause.published(event)
    return events


def imported(cause: Cause, number: int) -> events_pb2.Event:
    """A complete record."""
    record = pb.Candidate(id=f"c{number:06d}", run=RUN, kind=pb.KIND_IMPORTED, stage="tiny")
    record.request.number = number
    propose(record, number, parent_of(number))
    train(record, number)
    judge(record)
    analyse(record)
    record.state = pb.STATE_ARCHIVED
    event = follow(cause, "imported", "bench", 1, record.id)
    event.candidate_imported.CopyFrom(events_pb2.CandidateImported(index=number, record=record))
    return event
