"""The port of proposing: from what a seat may see to a draft, again with what was refused.

What a seat may see comes from other services: literature, and the nearest of what exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import grpc.aio

from services.contracts import (
    archive_pb2,
    archive_pb2_grpc,
    checker_pb2,
    checker_pb2_grpc,
    cognition_pb2,
    cognition_pb2_grpc,
    events_pb2,
)
from services.contracts import candidate_pb2 as pb
from services.llm.embedder import Vector


@dataclass(frozen=True)
class Context:
    """What one seat proposes from, as the archive stood when it was asked."""

    record: pb.Candidate
    parent: pb.Candidate
    references: tuple[pb.Candidate, ...]
    rejections: tuple[pb.Candidate, ...]
    history: tuple[archive_pb2.MoveOutcome, ...]
    entries: tuple[cognition_pb2.CognitionEntry, ...]
    settings: events_pb2.RunSettings
    best: tuple[pb.Candidate, ...] = ()  # the best by loss, the parent left out
    board: tuple[pb.Candidate, ...] = ()  # what was measured so far
    lessons: tuple[archive_pb2.WeighedLesson, ...] = ()  # of the run's analyses, surest first
    scale: checker_pb2.ScaleDescription | None = None


@dataclass(frozen=True)
class Draft:
    """A proposal before it is known to be new and sound."""

    name: str
    motivation: str
    program: str
    components: Sequence[str] = ()
    ideas: Sequence[pb.Idea] = ()
    moves: Sequence[str] = ()
    description: Mapping[str, object] | None = None
    memory: str = ""  # "fixed-state", "window" or "growing"; empty if unspecified
    mind: str = ""
    prompt_version: str = ""
    parent: str = ""  # what was modified, where that is not the parent that was drawn


@dataclass(frozen=True)
class Refusal:
    """Why a draft was not taken: it repeats something, the check found a fault (`sentence` holds the numbers), or it is
    sound and waits for others, of which the best is kept."""

    kind: Literal["repeat", "check", "drawn"]
    draft: Draft
    sentence: str
    verdicts: tuple[pb.ProbeVerdict, ...] = field(default=())
    repeats: tuple[pb.Candidate, ...] = field(default=())


class Proposer(Protocol):
    """Thinks up candidates."""

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """The next draft, knowing what was refused. Raises Rejected when it has nothing more to offer."""
        ...

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """Which idea the draft repeats, as a sentence; empty if it is new or the question cannot be decided."""
        ...

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """The original's program without the component that the record's request names, knowing what was refused.

        Raises Rejected where it cannot be left out.
        """
        ...


NEIGHBOURS = 5
ENTRIES = 3
BOARD = 100  # the best, and as many of the newest
MEASURED = 200  # for the offline mind
LESSONS = 12
BEST = 2  # of them with their programs


async def entries_for(
    cognition: cognition_pb2_grpc.CognitionAsyncStub,
    parent: pb.Candidate,
    settings: events_pb2.RunSettings,
    embed: Callable[[str], Awaitable[Vector | None]],
) -> tuple[cognition_pb2.CognitionEntry, ...]:
    """What the literature says about the parent's weaknesses, searched by its analysis; none if that is switched off.

    `embed` gives the query's vector where an endpoint embeds; else the service compares the text itself.
    Raises AioRpcError if no service answers.
    """
    if settings.ablations.without_cognition:
        return ()
    told = " ".join((parent.analysis.results, parent.analysis.synthesis, parent.proposal.motivation)).strip()
    request = cognition_pb2.SearchRequest(query=told or parent.proposal.name, count=ENTRIES)
    if vector := await embed(request.query):
        request.embedding.extend(vector.values)
        request.embedder = vector.embedder
    return tuple((await cognition.Search(request, timeout=30)).entries)


async def with_measured(context: Context, archive: archive_pb2_grpc.ArchiveAsyncStub) -> Context:
    """The context with the run's best by loss, without programs: what the offline mind's model learns from."""
    run, stage = context.record.run, context.record.stage
    request = archive_pb2.ListCandidatesRequest(run=run, sort="loss", stage=stage, page_size=MEASURED, slim=True)
    return replace(context, board=tuple((await archive.ListCandidates(request, timeout=30)).candidates))


async def with_board(
    context: Context, archive: archive_pb2_grpc.ArchiveAsyncStub, checker: checker_pb2_grpc.CheckerAsyncStub | None
) -> Context:
    """The context with what a language model is shown besides: the run's best, all that was tried, lessons, scale.

    Without a checker that can describe the scale now it is left out: a proposal does not depend on it.
    """
    settings, record = context.settings, context.record
    found: dict[str, pb.Candidate] = {}
    for sort in ("loss", "number"):  # the best, then the newest
        request = archive_pb2.ListCandidatesRequest(run=record.run, sort=sort, stage=record.stage, page_size=BOARD)
        found |= {
            candidate.id: candidate for candidate in (await archive.ListCandidates(request, timeout=30)).candidates
        }
    board = tuple(found.values())
    measured = [
        candidate
        for candidate in board
        if candidate.training.HasField("loss")
        and candidate.id != context.parent.id
        and not candidate.HasField("rejection")  # a loss that a fault explains is no example
    ]
    scale = None
    if checker is not None:
        asked = checker_pb2.ScaleRequest(stage=record.stage, scale_overrides=settings.scale_overrides)
        with contextlib.suppress(grpc.aio.AioRpcError):
            scale = await checker.Describe(asked, timeout=120)
    better = [record for record in measured if record.training.loss < context.parent.training.loss]
    learnt = await archive.GetLessons(archive_pb2.LessonsRequest(run=record.run, most=LESSONS), timeout=60)
    return replace(context, board=board, best=tuple(better[:BEST]), lessons=tuple(learnt.lessons), scale=scale)


async def neighbours(
    stub: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, program: str, vector: Vector
) -> archive_pb2.NeighboursReply:
    """The candidates of the record's run, itself left out, with the nearest motivations and the programs most alike."""
    request = archive_pb2.NeighboursRequest(
        run=record.run,
        program=program,
        embedding=vector.values,
        embedder=vector.embedder,
        count=NEIGHBOURS,
        **{"except": record.id},
    )
    return await stub.GetNeighbours(request, timeout=30)


async def nearest_programs(
    stub: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, program: str
) -> list[archive_pb2.NearCandidate]:
    """The candidates of the record's run, itself left out, whose programs are built most like this one."""
    request = archive_pb2.NearestProgramsRequest(
        run=record.run, program=program, count=NEIGHBOURS, **{"except": record.id}
    )
    return list((await stub.NearestPrograms(request, timeout=30)).near)


async def nearest_motivations(
    stub: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, vector: Vector
) -> list[archive_pb2.NearCandidate]:
    """The candidates of the record's run, itself left out, whose motivations lie nearest."""
    request = archive_pb2.NearestMotivationsRequest(
        run=record.run, embedding=vector.values, embedder=vector.embedder, count=NEIGHBOURS, **{"except": record.id}
    )
    return list((await stub.NearestMotivations(request, timeout=30)).near)
