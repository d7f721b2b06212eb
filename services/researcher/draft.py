"""The port of proposers, which make a draft from a seat's context and earlier refusals, and the calls that build it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import grpc.aio
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from services.archive.policies import stopping_rule
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
    """The input of one proposal, read from the archive when the seat is handled."""

    record: pb.Candidate
    parent: pb.Candidate
    references: tuple[pb.Candidate, ...]
    rejections: tuple[pb.Candidate, ...]
    history: tuple[archive_pb2.MoveOutcome, ...]
    entries: tuple[cognition_pb2.CognitionEntry, ...]
    settings: events_pb2.RunSettings
    best: tuple[pb.Candidate, ...] = ()  # by loss, without the parent
    board: tuple[pb.Candidate, ...] = ()  # the candidates measured so far
    lessons: tuple[archive_pb2.WeighedLesson, ...] = ()  # of the run's analyses, most certain first
    scale: checker_pb2.ScaleDescription | None = None
    drafted: frozenset[str] = frozenset()  # digests of programs that other seats have just drafted


@dataclass(frozen=True)
class Draft:
    """A proposal before the tests of novelty and soundness."""

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
    parent: str = ""  # the modified candidate, if it is not the drawn parent


@dataclass(frozen=True)
class Refusal:
    """Why a draft is not proposed: it repeats a candidate, it fails the check (`sentence` has the numbers), or it is
    sound and one of several drafts, of which the best is proposed ("drawn")."""

    kind: Literal["repeat", "check", "drawn"]
    draft: Draft
    sentence: str
    verdicts: tuple[pb.ProbeVerdict, ...] = field(default=())
    repeats: tuple[pb.Candidate, ...] = field(default=())


class Proposer(Protocol):
    """Proposes candidates."""

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """The next draft, given the earlier refusals. Raises Rejected if there is no further one."""

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """A sentence that names the repeated idea; empty if the draft is new or this cannot be decided."""

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """The original's program without the component that the request names. Raises Rejected if there is none."""


NEIGHBOURS = 5
ENTRIES = 3
BOARD = 100  # best candidates, and as many of the newest
MEASURED = 200  # candidates for the surrogate of the offline mind
LESSONS = 12
BEST = 2  # candidates that are shown with their programs


async def entries_for(
    cognition: cognition_pb2_grpc.CognitionAsyncStub,
    parent: pb.Candidate,
    settings: events_pb2.RunSettings,
    embed: Callable[[str], Awaitable[Vector | None]],
) -> tuple[cognition_pb2.CognitionEntry, ...]:
    """Literature about the parent's weaknesses, found by its analysis; none if the run does without cognition.

    `embed` returns the query's vector, or None if no endpoint embeds; then the service searches by the text.
    Raises AioRpcError if the service is unreachable.
    """
    if settings.ablations.without_cognition:
        return ()
    query = " ".join((parent.analysis.results, parent.analysis.synthesis, parent.proposal.motivation)).strip()
    request = cognition_pb2.SearchRequest(query=query or parent.proposal.name, count=ENTRIES)
    if vector := await embed(request.query):
        request.embedding.extend(vector.values)
        request.embedder = vector.embedder
    return tuple((await cognition.Search(request, timeout=30)).entries)


async def with_measured(context: Context, archive: archive_pb2_grpc.ArchiveAsyncStub) -> Context:
    """The context with the best candidates as the surrogate's data; with curves if the run stops trainings early."""
    run, stage, slim = context.record.run, context.record.stage, stopping_rule(context.settings.policies) == "none"
    request = archive_pb2.ListCandidatesRequest(run=run, sort="loss", stage=stage, page_size=MEASURED, slim=slim)
    return replace(context, board=tuple((await archive.ListCandidates(request, timeout=30)).candidates))


async def with_board(
    context: Context, archive: archive_pb2_grpc.ArchiveAsyncStub, checker: checker_pb2_grpc.CheckerAsyncStub | None
) -> Context:
    """The context with what only prompts contain: best and newest candidates, lessons, and the scale if it is known."""
    settings, record = context.settings, context.record
    by_id: dict[str, pb.Candidate] = {}
    for sort in ("loss", "number"):  # the best, then the newest
        request = archive_pb2.ListCandidatesRequest(run=record.run, sort=sort, stage=record.stage, page_size=BOARD)
        by_id |= {
            candidate.id: candidate for candidate in (await archive.ListCandidates(request, timeout=30)).candidates
        }
    board = tuple(by_id.values())
    measured = [
        candidate
        for candidate in board
        if candidate.training.HasField("loss")
        and candidate.id != context.parent.id
        and not candidate.HasField("rejection")  # its loss may be the result of a fault
    ]
    scale = None
    if checker is not None:
        scale_request = checker_pb2.ScaleRequest(stage=record.stage, scale_overrides=settings.scale_overrides)
        with contextlib.suppress(grpc.aio.AioRpcError):
            scale = await checker.Describe(scale_request, timeout=120)
    better = [record for record in measured if record.training.loss < context.parent.training.loss]
    lessons = await archive.GetLessons(archive_pb2.LessonsRequest(run=record.run, most=LESSONS), timeout=60)
    return replace(context, board=board, best=tuple(better[:BEST]), lessons=tuple(lessons.lessons), scale=scale)


async def neighbours(
    stub: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, program: str, vector: Vector
) -> archive_pb2.NeighboursReply:
    """The other candidates of the run with the nearest motivations and the most similar programs."""
    request = archive_pb2.NeighboursRequest(
        run=record.run,
        program=program,
        embedding=vector.values,
        embedder=vector.embedder,
        count=NEIGHBOURS,
        **{"except": record.id},
    )
    return await stub.GetNeighbours(request, timeout=30)


def struct_json(struct: Struct) -> str:
    """A Struct as JSON, with sorted keys. It contains whole numbers as floats; they are written as integers."""
    return json.dumps(_with_integers(MessageToDict(struct)), sort_keys=True, ensure_ascii=False)


def _with_integers(value: object) -> object:
    if isinstance(value, dict):
        return {key: _with_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
