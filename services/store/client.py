"""The archive's queries over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import grpc.aio

from services.chassis import rpc
from services.chassis.errors import NotFound
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2, events_pb2
from services.store.port import ArchiveUnavailable, LogRow, Near, Page, PoolRow, Query

PAGE = 500
"""Maximum number of candidates per reply."""


class ArchiveClient:
    """`services.store.port.Questions` of a store elsewhere. Use it as an async context manager."""

    def __init__(self, address: str, settings: ServiceSettings) -> None:
        self._channel = rpc.channel(address, settings)
        self._stub: archive_pb2_grpc.ArchiveAsyncStub = archive_pb2_grpc.ArchiveStub(self._channel)

    async def __aenter__(self) -> ArchiveClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def record(self, run: str, candidate: str) -> candidate_pb2.Candidate:
        """See the port."""
        async with _translated():
            return await self._stub.GetCandidate(pb.GetCandidateRequest(run=run, candidate=candidate))

    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        """See the port; as many calls as the ids take pages, and one at least."""
        fetched: list[candidate_pb2.Candidate] = []
        async with _translated():
            for start in range(0, max(1, len(ids)), PAGE):
                request = pb.GetCandidatesRequest(run=run, candidates=ids[start : start + PAGE])
                fetched += (await self._stub.GetCandidates(request)).candidates
        return fetched

    async def list_candidates(self, query: Query) -> Page:
        """See the port; as many calls as the limit takes pages."""
        if query.offset < 0 or query.limit < 0:
            raise ValueError(f"offset and limit must not be negative, but are {query.offset} and {query.limit}")
        first = await self._page(query)
        found, total = list(first.candidates), first.total
        while len(found) < query.limit and query.offset + len(found) < total:
            more = await self._page(replace(query, offset=query.offset + len(found), limit=query.limit - len(found)))
            if not more.candidates:
                break
            found.extend(more.candidates)
        return Page(tuple(found[: query.limit]), total)

    async def state_counts(self, run: str) -> dict[int, int]:
        """See the port."""
        states = (await self._status(run)).states
        return {candidate_pb2.State.Value(f"STATE_{name.upper()}"): count for name, count in states.items()}

    async def event_count(self, run: str) -> int:
        """See the port."""
        return (await self._status(run)).events

    async def tree(self, run: str) -> list[pb.TreeNode]:
        """See the port."""
        async with _translated():
            return list((await self._stub.GetTree(pb.RunRequest(run=run))).nodes)

    async def subtree(self, run: str, candidate: str) -> list[pb.TreeNode]:
        """See the port."""
        return list((await self._relatives(run, candidate, subtree=True)).subtree)

    async def children(self, run: str, candidate: str) -> list[str]:
        """See the port."""
        return [child.id for child in (await self._relatives(run, candidate)).children]

    async def path(self, run: str, candidate: str) -> list[str]:
        """See the port."""
        return list((await self._relatives(run, candidate)).path)

    async def pool(self, run: str, at_sequence: int = 0) -> PoolRow | None:
        """See the port."""
        async with _translated():
            answer = await self._stub.GetPool(pb.GetPoolRequest(run=run, at_sequence=at_sequence))
        name = run or (await self._status(run)).run
        return PoolRow(name, answer.sequence, tuple(answer.members), answer.entries) if answer.sequence else None

    async def baselines(self, run: str) -> list[candidate_pb2.Candidate]:
        """See the port."""
        async with _translated():
            return list((await self._stub.GetBaselines(pb.GetBaselinesRequest(run=run))).baselines)

    async def nearest_motivations(
        self, run: str, embedding: Sequence[float], embedder: str, count: int, except_id: str
    ) -> list[Near]:
        """See the port."""
        request = pb.NearestMotivationsRequest(
            run=run, embedding=embedding, embedder=embedder, count=count, **{"except": except_id}
        )
        async with _translated():
            return _near(await self._stub.NearestMotivations(request))

    async def nearest_programs(self, run: str, program: str, count: int, except_id: str) -> list[Near]:
        """See the port."""
        request = pb.NearestProgramsRequest(run=run, program=program, count=count, **{"except": except_id})
        async with _translated():
            return _near(await self._stub.NearestPrograms(request))

    async def chain(self, run: str, candidate: str) -> list[LogRow]:
        """See the port."""
        async with _translated():
            answer = await self._stub.GetChain(pb.GetCandidateRequest(run=run, candidate=candidate))
        return [_log_row(link) for link in answer.links]

    async def digest(self, run: str) -> tuple[str, int]:
        """See the port."""
        async with _translated():
            answer = await self._stub.GetDigest(pb.RunRequest(run=run))
        return answer.digest, answer.events

    async def _status(self, run: str) -> pb.RunStatus:
        async with _translated():
            return await self._stub.GetRun(pb.RunRequest(run=run))

    async def _relatives(self, run: str, candidate: str, subtree: bool = False) -> pb.RelativesReply:
        async with _translated():
            return await self._stub.GetRelatives(pb.GetRelativesRequest(run=run, candidate=candidate, subtree=subtree))

    async def _page(self, query: Query) -> pb.ListCandidatesReply:
        request = pb.ListCandidatesRequest(
            run=query.run,
            sort=query.sort,
            reverse=query.reverse,
            states=[candidate_pb2.State.ValueType(state) for state in query.states],
            kinds=[candidate_pb2.Kind.ValueType(kind) for kind in query.kinds],
            stage=query.stage,
            page_size=max(1, min(query.limit, PAGE)),
            page_token=str(query.offset) if query.offset else "",
        )
        async with _translated():
            return await self._stub.ListCandidates(request)


def _near(answer: pb.NearestReply) -> list[Near]:
    return [Near(one.candidate, one.similarity, one.same_structure) for one in answer.near]


def _log_row(link: pb.ChainLink) -> LogRow:
    event = events_pb2.Event()
    event.CopyFrom(link.event)
    digest = bytes.fromhex(link.sha256)
    return LogRow(link.sequence, event.run, event.candidate, digest, event, link.accepted, link.refused_because)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Translate status codes to the errors of the port."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        reason = error.details() or error.code().name
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise NotFound(reason) from error
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise ValueError(reason) from error
        if rpc.is_transient(error):
            raise ArchiveUnavailable(reason) from error
        raise
