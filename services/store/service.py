# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The gRPC service Archive: queries, and reservations of the budget."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import wraps
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from services.archive.lessons import lessons_of
from services.archive.policies import parent_policy
from services.chassis.errors import NotFound, Transient
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.domain.pool import BEYOND_THE_POOL
from services.domain.structure import fingerprint
from services.store.backends.rows import MAX_INTEGER, columns, tree_node
from services.store.ledger import RunLedger
from services.store.port import SORTS, Archive, CandidateRow, Near, Query, RunRow, WriterState
from services.store.steering import draw_seeds

if TYPE_CHECKING:
    import grpc.aio

    from services.contracts.archive_pb2_grpc import ArchiveServicer

    Context = grpc.aio.ServicerContext[Any, Any]
else:  # a local archive is read without gRPC, which takes a tenth of a command to import
    ArchiveServicer = Context = object


def slim(record: candidate_pb2.Candidate, programs: bool = False) -> candidate_pb2.Candidate:
    """The record itself without what tables do not show: programs, per-item results, prose, all but a curve's end."""
    program = () if programs else ("program",)
    for field in (*program, "motivation_embedding", "check"):
        record.proposal.ClearField(field)
    for seed in record.training.seeds:
        del seed.curve[:-1]
        seed.ClearField("block_losses")
        for score in seed.scores:
            score.ClearField("correct")
    for field in (*program, "revisions"):
        record.training.ClearField(field)
    record.ClearField("analysis")
    record.ClearField("calls")
    return record


MAX_PER_PAGE = 500
REJECTIONS, MOVES = 10, 500
WATCH_SECONDS = 1.0
APPLIED_SECONDS = 10.0
SCORED = tuple(state for state in candidate_pb2.State.values() if state != candidate_pb2.STATE_REJECTED)
ENDED_WELL = (candidate_pb2.STATE_ARCHIVED,)
COMPETING = tuple(kind for kind in candidate_pb2.Kind.values() if kind != candidate_pb2.KIND_ABLATION)


def _retry_while_rebuilding(service: type[ArchiveService]) -> type[ArchiveService]:
    """Make unary methods raise Transient instead of NotFound while a lost archive is rebuilt from the log."""

    def wrapped(method: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        @wraps(method)
        async def answer(self: ArchiveService, request: object, context: Context) -> object:
            try:
                return await method(self, request, context)
            except NotFound:
                await self.require_reached()
                raise

        return answer

    for method in pb.DESCRIPTOR.services_by_name["Archive"].methods:
        if not method.server_streaming:
            setattr(service, method.name, wrapped(getattr(service, method.name)))
    return service


@_retry_while_rebuilding
class ArchiveService(ArchiveServicer):
    """Queries of one archive. `services.chassis.rpc` translates errors to status codes."""

    def __init__(self, archive: Archive, ledger: RunLedger, writer: WriterState | None = None) -> None:
        self._archive = archive
        self._ledger = ledger
        self._writer = writer or WriterState()
        self._lessons: tuple[tuple[str, int], pb.LessonsReply] | None = None  # by run and its last change

    async def GetCandidate(self, request: pb.GetCandidateRequest, context: Context) -> candidate_pb2.Candidate:
        return await self._archive.record(await self._name(request.run, request.at_least), request.candidate)

    async def GetCandidates(self, request: pb.GetCandidatesRequest, context: Context) -> pb.GetCandidatesReply:
        if len(request.candidates) > MAX_PER_PAGE:
            raise ValueError(f"candidates has {len(request.candidates)} ids; at most {MAX_PER_PAGE} are allowed")
        run = await self._name(request.run, request.at_least)
        candidates = await self._archive.candidates(run, request.candidates)
        if request.sources and candidates:
            proposal = candidates[0].proposal
            names = dict.fromkeys(name for name in (proposal.parent, *proposal.references) if name)
            candidates += await self._archive.candidates(run, list(names))
        return pb.GetCandidatesReply(candidates=candidates, applied=request.at_least)

    async def ListCandidates(self, request: pb.ListCandidatesRequest, context: Context) -> pb.ListCandidatesReply:
        query = _query(await self._name(request.run), request)
        page = await self._archive.list_candidates(query)
        end = query.offset + len(page.candidates)
        return pb.ListCandidatesReply(
            candidates=[slim(candidate) for candidate in page.candidates] if request.slim else page.candidates,
            next_page_token=str(end) if end < page.total else "",
            total=page.total,
        )

    async def DrawSeeds(self, request: pb.DrawSeedsRequest, context: Context) -> pb.DrawSeedsReply:
        run = await self._run(await self._name(request.run, request.at_least))
        beyond = parent_policy(run.settings) in BEYOND_THE_POOL
        if draw := draw_seeds(run, await self._archive.tree(run.run) if beyond else [], request.candidate):
            ids = [draw.parent.id, *(reference.id for reference in draw.references)]
            records = await self._archive.candidates(run.run, ids)
        else:  # nothing is scored, perhaps because no judge is reachable: start from a measured baseline
            baselines = await self._archive.baselines(run.run)
            records = [baseline for baseline in baselines if baseline.training.HasField("loss")][:1]
        return pb.DrawSeedsReply(
            parent=records[0] if records else None,
            references=records[1:],
            recent_rejections=await self._archive.recent_rejections(run.run, REJECTIONS),
            history=await self._archive.moves(run.run, MOVES),
            record=await self._archive.record(run.run, request.candidate) if request.at_least else None,
        )

    async def NearestMotivations(self, request: pb.NearestMotivationsRequest, context: Context) -> pb.NearestReply:
        run, count, except_id = await self._name(request.run), request.count or 5, getattr(request, "except")
        near = await self._archive.nearest_motivations(run, request.embedding, request.embedder, count, except_id)
        return pb.NearestReply(near=_near(near))

    async def NearestPrograms(self, request: pb.NearestProgramsRequest, context: Context) -> pb.NearestReply:
        run, count, except_id = await self._name(request.run), request.count or 5, getattr(request, "except")
        near = await self._archive.nearest_programs(run, request.program, count, except_id)
        return pb.NearestReply(near=_near(near))

    async def GetNeighbours(self, request: pb.NeighboursRequest, context: Context) -> pb.NeighboursReply:
        run, count, except_id = await self._name(request.run), request.count or 5, getattr(request, "except")
        try:
            programs = await self._archive.nearest_programs(run, request.program, count, except_id)
            structure = fingerprint(request.program).digest  # cached
        except ValueError:
            return pb.NeighboursReply()
        motivations = await self._archive.nearest_motivations(
            run, request.embedding, request.embedder, count, except_id
        )
        for near in (*motivations, *programs):
            slim(near.candidate, programs=True)
        return pb.NeighboursReply(structure=structure, motivations=_near(motivations), programs=_near(programs))

    async def GetRelatives(self, request: pb.GetRelativesRequest, context: Context) -> pb.RelativesReply:
        run = await self._name(request.run, request.at_least)
        record = await self._archive.record(run, request.candidate)
        path = await self._archive.path(run, record.id)
        ancestors = await self._archive.candidates(run, path[:-1][-2:])
        siblings = await self._archive.children(run, record.proposal.parent) if record.proposal.parent else []
        others = [sibling for sibling in siblings if sibling != record.id][: request.siblings or 5]
        return pb.RelativesReply(
            parent=ancestors[-1] if ancestors else None,
            grandparent=ancestors[-2] if len(ancestors) > 1 else None,
            siblings=await self._archive.candidates(run, others),
            children=await self._archive.candidates(run, await self._archive.children(run, record.id)),
            path=path,
            subtree=await self._archive.subtree(run, record.id) if request.subtree else [],
            record=record,
        )

    async def GetTree(self, request: pb.RunRequest, context: Context) -> pb.TreeReply:
        return pb.TreeReply(nodes=await self._archive.tree(await self._name(request.run)))

    async def GetPool(self, request: pb.GetPoolRequest, context: Context) -> pb.GetPoolReply:
        row = await self._archive.pool(await self._name(request.run), min(request.at_sequence, MAX_INTEGER))
        if row is None:
            return pb.GetPoolReply()
        return pb.GetPoolReply(members=row.members, sequence=row.sequence, entries=row.entries)

    async def GetRun(self, request: pb.RunRequest, context: Context) -> pb.RunStatus:
        return await self._status(await self._run(request.run))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsReply:
        self._require_caught_up()
        return pb.ListRunsReply(runs=[await self._status(row) for row in await self._archive.runs()])

    async def GetBaselines(self, request: pb.GetBaselinesRequest, context: Context) -> pb.GetBaselinesReply:
        run = await self._run(request.run)
        baselines = await self._archive.baselines(run.run)
        if request.stage:
            baselines = [baseline for baseline in baselines if baseline.stage == request.stage]
        complete = len(baselines) == len(run.settings.baselines) and not run.state.baselines_open
        return pb.GetBaselinesReply(baselines=baselines, complete=complete)

    async def GetLessons(self, request: pb.LessonsRequest, context: Context) -> pb.LessonsReply:
        row = await self._run(request.run)
        if self._lessons is None or self._lessons[0] != (row.run, row.changed):
            records: list[candidate_pb2.Candidate] = []
            total = 1
            while len(records) < total:
                page = await self._archive.list_candidates(
                    Query(row.run, sort="number", states=ENDED_WELL, offset=len(records), limit=MAX_PER_PAGE)
                )
                records += page.candidates
                total = page.total if page.candidates else 0
            self._lessons = (row.run, row.changed), await asyncio.to_thread(lessons_of, records)
        lessons = self._lessons[1]
        return pb.LessonsReply(lessons=lessons.lessons[: request.most or None], refuted=lessons.refuted)

    async def GetChain(self, request: pb.GetCandidateRequest, context: Context) -> pb.ChainReply:
        run = await self._name(request.run)
        record = await self._archive.record(run, request.candidate)
        return pb.ChainReply(
            links=[
                pb.ChainLink(
                    sequence=row.sequence,
                    event=row.event,
                    sha256=row.sha256.hex(),
                    accepted=row.accepted,
                    refused_because=row.refused_because,
                )
                for row in await self._archive.chain(run, record.id)
            ]
        )

    async def WatchRun(self, request: pb.RunRequest, context: Context) -> AsyncIterator[pb.RunStatus]:
        last = 0
        while True:
            change = self._writer.change
            answer = await self._status(await self._run(request.run))
            if answer.sequence != last:
                last = answer.sequence
                yield answer
            await _wait(change, WATCH_SECONDS)

    async def GetDigest(self, request: pb.RunRequest, context: Context) -> pb.DigestReply:
        run = await self._run(request.run)
        digest, events = await self._archive.digest(run.run)
        return pb.DigestReply(digest=digest, events=events, sequence=run.changed)

    async def Reserve(self, request: pb.ReserveRequest, context: Context) -> pb.ReserveReply:
        money = request.nanodollars if request.HasField("nanodollars") else None
        run = await self._name(request.run)
        return pb.ReserveReply(reservation=await self._ledger.reserve(run, request.tokens, money))

    async def Settle(self, request: pb.SettleRequest, context: Context) -> pb.SettleReply:
        tokens = request.tokens if request.HasField("tokens") else None
        money = request.nanodollars if request.HasField("nanodollars") else None
        await self._ledger.settle(request.reservation, tokens, money, request.booked_at)
        return pb.SettleReply()

    async def _wait_for(self, sequence: int) -> None:
        """Wait until the log is applied up to a sequence. Raises Transient after APPLIED_SECONDS."""
        self._require_caught_up()
        if not sequence or await self._archive.applied() >= sequence:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(APPLIED_SECONDS):
                while True:
                    change = self._writer.change
                    if await self._archive.applied() >= sequence:
                        return
                    await _wait(change, WATCH_SECONDS)  # another store may have applied it
        raise Transient(f"the archive has not applied the log up to {sequence} yet")

    def _require_caught_up(self) -> None:
        """Raise Transient while the archive is being rebuilt, since queries would miss records."""
        if self._writer.behind:
            raise Transient(f"the archive is catching up with the log{self._writer.obstacle}")

    async def require_reached(self) -> None:
        """Raise Transient if the archive has lost events, which its writer may not have noticed yet."""
        if await self._archive.applied() < self._writer.reached:
            raise Transient("the archive has lost events and is rebuilt from the log")

    async def _run(self, run: str) -> RunRow:
        self._require_caught_up()
        return await self._archive.run(run)

    async def _name(self, run: str, at_least: int = 0) -> str:
        """The run's name, by default the newest; the callee checks that it exists. Waits as `_wait_for`."""
        await self._wait_for(at_least)
        return run or (await self._run("")).run

    async def _status(self, row: RunRow) -> pb.RunStatus:
        state = row.state
        best = await self._archive.list_candidates(Query(row.run, states=SCORED, kinds=COMPETING, limit=1))
        scored = [candidate for candidate in best.candidates if candidate.verdict.HasField("fitness")]
        roots = [root.training for root in (await self._archive.baselines(row.run))[:1]]
        losses = [training.loss for training in roots if training.HasField("loss")]
        counts = await self._archive.state_counts(row.run)
        started, changed = (Timestamp(seconds=int(at), nanos=int(at % 1 * 1e9)) for at in (state.started, state.latest))
        return pb.RunStatus(
            run=row.run,
            settings=row.settings,
            phase=state.phase,
            states={
                candidate_pb2.State.Name(candidate_pb2.State.ValueType(number)).removeprefix("STATE_").lower(): count
                for number, count in counts.items()
            },
            in_flight=len(state.in_flight),
            proposals_ended=state.proposals_ended,
            best=tree_node(columns(CandidateRow(scored[0], 0))) if scored else None,
            spent=pb.Spent(seconds=state.seconds(state.latest), **asdict(state.spent)),
            started=started,
            changed=changed,
            sequence=row.changed,
            stop_reason=state.reason,
            dead_letters=row.dead_letters,
            climbing=len(state.ladder.climbing),
            origin=row.origin,
            outage=self._writer.outage,
            events=await self._archive.event_count(row.run),
            loss_of_root=losses[0] if losses else None,
        )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, at most so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _near(neighbours: Sequence[Near]) -> list[pb.NearCandidate]:
    return [pb.NearCandidate(**vars(near)) for near in neighbours]


def _query(run: str, request: pb.ListCandidatesRequest) -> Query:
    sort = request.sort or "fitness"
    if sort not in SORTS:
        raise ValueError(f"sort is {sort!r}; choose one of {', '.join(SORTS)}")
    if request.page_size > MAX_PER_PAGE:
        raise ValueError(f"page_size is {request.page_size}; at most {MAX_PER_PAGE} are allowed")
    if request.page_token and not (request.page_token.isdecimal() and len(request.page_token) < 10):
        raise ValueError(f"page_token is {request.page_token!r}; use the next_page_token of a reply")
    return Query(
        run=run,
        sort=sort,
        reverse=request.reverse,
        states=tuple(request.states),
        kinds=tuple(request.kinds),
        stage=request.stage,
        offset=int(request.page_token or 0),
        limit=request.page_size or 100,
    )
