"""An archive behind real gRPC whose candidates a test adds and changes while a page looks at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as candidates
from services.domain.run_state import RunState
from services.domain.zoo import baseline
from services.store.port import RunRow
from services.store.service import Context
from tests.archive_server import KnownArchive

NODES = 2000
HOSTILE = '<script>document.title="taken"</script><img src=x onerror=alert(1)>'
MARKDOWN = (
    f"**Bold** claim: {HOSTILE}\n\n- one\n- two\n\n[go](javascript:alert(1)) ![picture](https://example.org/x.png)"
)
PROGRAM = baseline("delta_net").program


def record(number: int) -> candidates.Candidate:
    """Candidate number `number` of a run in which all parents are known and some parts are missing."""
    candidate = candidates.Candidate(
        id=f"c{number:06d}", run="r1", kind=candidates.KIND_PROPOSAL, state=candidates.STATE_ARCHIVED, stage="tiny"
    )
    candidate.request.number = number
    if not number:
        candidate.kind, candidate.request.baseline = candidates.KIND_BASELINE, "delta_net"
    parent = f"c{number // 3:06d}" if number else ""
    components = ["delta-rule", "output-gate"] if number % 2 else ["delta-rule", "forget-gate"]
    program = PROGRAM.replace("num_heads", f"num_heads_{number}", 1)
    candidate.proposal.CopyFrom(
        candidates.Proposal(
            name=f"Net{number}", motivation=MARKDOWN, program=program, parent=parent, components=components
        )
    )
    candidate.proposal.check.passed = True
    candidate.proposal.check.verdicts.add(probe="causality", outcome="pass", message=HOSTILE)
    candidate.proposal.ideas.add(text="gate the write", origin="cognition", source="2412.06464#gate")
    loss = 1.5 + (number % 97) / 300
    candidate.training.CopyFrom(
        candidates.Training(loss=loss, benchmark=0.3 + (number % 53) / 500, worker="engineer-1")
    )
    seed = candidate.training.seeds.add(seed=1, loss=loss)
    seed.measurements.CopyFrom(candidates.Measurements(parameters=400_000 + number, seconds=60))
    seed.block_losses.extend(loss + (block % 7) / 1000 for block in range(32))
    seed.part_losses.add(part="tokens 1-16", loss=loss + 1, share=0.0625)
    for step in range(1, 21):
        seed.curve.add(step=step * 10, train_loss=loss + 2 * 0.8**step)
    candidate.verdict.CopyFrom(candidates.Verdict(raw=5.0, justification=HOSTILE, judge="offline"))
    candidate.verdict.fitness.CopyFrom(candidates.Fitness(version="paper", value=(number % 89) / 89))
    candidate.analysis.CopyFrom(candidates.Analysis(results=MARKDOWN, components=components))
    return candidate


@cache
def _records(count: int) -> tuple[candidates.Candidate, ...]:
    return tuple(map(record, range(count)))


class ChangingArchive(KnownArchive):
    """The store's service. `add` is what an event is to the store: watchers are told."""

    def __init__(self, count: int = NODES) -> None:
        budget = events_pb2.Budget(candidates=4000)
        settings = events_pb2.RunSettings(scale="tiny", baselines=["delta_net"], budget=budget)
        super().__init__(*_records(count), settings=settings)

    async def add(self, *records: candidates.Candidate) -> None:
        """New or changed candidates."""
        await self.tell(*records)

    def finish(self) -> None:
        """The run has ended, and so has a later one."""
        self.put(phase="finished")
        self.memory.put(RunRow("r2", self.settings, RunState(phase="finished"), 2, 2))

    async def GetChain(self, request: pb.GetCandidateRequest, context: Context) -> pb.ChainReply:  # noqa: N802, ARG002
        """One event: records that are given as they are have none."""
        reply = pb.ChainReply()
        reply.links.add(sequence=7, sha256="ab" * 32, accepted=True).event.id = "r1.c000007.proposed.1"
        return reply


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A client of an archive."""
    async with channel(address, ServiceSettings()) as connection:
        yield archive_pb2_grpc.ArchiveStub(connection)
