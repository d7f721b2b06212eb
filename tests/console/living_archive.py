# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""An archive behind real gRPC whose candidates a test adds and changes while a page looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import grpc.aio

from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as candidates
from services.domain.zoo import baseline

NODES = 2000
HOSTILE = '<script>document.title="taken"</script><img src=x onerror=alert(1)>'
MARKDOWN = (
    f"**Bold** claim: {HOSTILE}\n\n- one\n- two\n\n[go](javascript:alert(1)) ![picture](https://example.org/x.png)"
)
PROGRAM = baseline("delta_net").program


def record(number: int) -> candidates.Candidate:
    """Candidate number `number` of a run in which all parents are known and some parts are missing."""
    one = candidates.Candidate(
        id=f"c{number:06d}", run="r1", kind=candidates.KIND_PROPOSAL, state=candidates.STATE_ARCHIVED, stage="tiny"
    )
    one.request.number = number
    parent = f"c{number // 3:06d}" if number else ""
    components = ["delta-rule", "output-gate"] if number % 2 else ["delta-rule", "forget-gate"]
    program = PROGRAM.replace("num_heads", f"num_heads_{number}", 1)
    one.proposal.CopyFrom(
        candidates.Proposal(
            name=f"Net{number}", motivation=MARKDOWN, program=program, parent=parent, components=components
        )
    )
    one.proposal.check.passed = True
    one.proposal.check.verdicts.add(probe="causality", outcome="pass", message=HOSTILE)
    one.proposal.ideas.add(text="gate the write", origin="cognition", source="2412.06464#gate")
    loss = 1.5 + (number % 97) / 300
    one.training.CopyFrom(candidates.Training(loss=loss, benchmark=0.3 + (number % 53) / 500, worker="engineer-1"))
    seed = one.training.seeds.add(seed=1, loss=loss)
    seed.measurements.CopyFrom(candidates.Measurements(parameters=400_000 + number, seconds=60))
    seed.block_losses.extend(loss + (block % 7) / 1000 for block in range(32))
    for step in range(1, 21):
        seed.curve.add(step=step * 10, train_loss=loss + 2 * 0.8**step)
    one.verdict.CopyFrom(candidates.Verdict(raw=5.0, justification=HOSTILE, judge="offline"))
    one.verdict.fitness.CopyFrom(candidates.Fitness(version="paper", value=(number % 89) / 89))
    one.analysis.CopyFrom(candidates.Analysis(results=MARKDOWN, components=components))
    return one


@cache
def _records(count: int) -> dict[str, candidates.Candidate]:
    return {one.id: one for one in map(record, range(count))}


class LivingArchive(archive_pb2_grpc.ArchiveServicer):
    """Answers as the store does. `add` is what an event is to the store: watchers are told."""

    def __init__(self, count: int = NODES) -> None:
        self.records = dict(_records(count))
        self.phase = "searching"
        self.runs = ["r1"]
        self._sequence = 1
        self._changed = asyncio.Condition()

    async def add(self, *records: candidates.Candidate, phase: str = "") -> None:
        """New or changed candidates, and perhaps another phase."""
        async with self._changed:
            self.records |= {one.id: one for one in records}
            self.phase = phase or self.phase
            self._sequence += 1
            self._changed.notify_all()

    def _status(self) -> pb.RunStatus:
        states: dict[str, int] = {}
        for one in self.records.values():
            name = candidates.State.Name(one.state).removeprefix("STATE_").lower()
            states[name] = states.get(name, 0) + 1
        status = pb.RunStatus(run="r1", phase=self.phase, sequence=self._sequence, states=states)
        status.settings.scale = "tiny"
        status.settings.budget.candidates = 4000
        status.proposals_ended = states.get("archived", 0)
        return status

    async def ListRuns(self, request: object, context: object) -> pb.ListRunsReply:
        return pb.ListRunsReply(runs=[pb.RunStatus(run=one, phase=self.phase) for one in self.runs])

    async def GetRun(self, request: pb.RunRequest, context: grpc.aio.ServicerContext) -> pb.RunStatus:
        if request.run not in ("", "r1"):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no run {request.run!r}")
        return self._status()

    async def ListCandidates(self, request: pb.ListCandidatesRequest, context: object) -> pb.ListCandidatesReply:
        found = [one for one in self.records.values() if not request.states or one.state in request.states]
        start = int(request.page_token or 0)
        end = start + request.page_size
        more = str(end) if end < len(found) else ""
        return pb.ListCandidatesReply(candidates=found[start:end], next_page_token=more, total=len(found))

    async def GetCandidate(
        self, request: pb.GetCandidateRequest, context: grpc.aio.ServicerContext
    ) -> candidates.Candidate:
        if request.candidate not in self.records:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"run r1 has no candidate {request.candidate!r}")
        return self.records[request.candidate]

    async def GetCandidates(self, request: pb.GetCandidatesRequest, context: object) -> pb.GetCandidatesReply:
        known = [self.records[one] for one in request.candidates if one in self.records]
        return pb.GetCandidatesReply(candidates=known)

    async def GetChain(self, request: object, context: object) -> pb.ChainReply:
        reply = pb.ChainReply()
        reply.links.add(sequence=7, sha256="ab" * 32, accepted=True).event.id = "r1.c000007.proposed.1"
        return reply

    async def GetBaselines(self, request: object, context: object) -> pb.GetBaselinesReply:
        return pb.GetBaselinesReply(baselines=[self.records["c000000"]])

    async def WatchRun(self, request: object, context: object) -> AsyncIterator[pb.RunStatus]:
        while True:
            yield self._status()
            async with self._changed:
                await self._changed.wait()


@asynccontextmanager
async def served(archive: LivingArchive, port: int = 0) -> AsyncIterator[int]:
    """The archive on a port of this machine."""
    server = grpc.aio.server()
    archive_pb2_grpc.add_ArchiveServicer_to_server(archive, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


@asynccontextmanager
async def stub_of(port: int) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A client of it."""
    async with channel(f"127.0.0.1:{port}", ServiceSettings()) as connection:
        yield archive_pb2_grpc.ArchiveStub(connection)
