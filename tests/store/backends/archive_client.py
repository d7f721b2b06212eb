"""The archive's queries over gRPC, for the suite that every archive passes."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TypeVar

import grpc
import grpc.aio

from services.chassis import rpc
from services.chassis.errors import NotFound
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2
from services.store.port import ArchiveUnavailable, LogRow, Near, Page, PoolRow, Query

T = TypeVar("T")
PAGE = 500
"""Maximum number of candidates per reply."""


class ArchiveClient:
    """`services.store.port.Queries` of a store over gRPC. Use it as an async context manager."""

    def __init__(self, address: str, settings: ServiceSettings) -> None:
        self._channel = rpc.channel(address, settings)
        self._stub: archive_pb2_grpc.ArchiveAsyncStub = archive_pb2_grpc.ArchiveStub(self._channel)

    async def __aenter__(self) -> ArchiveClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def record(self, run: str, candidate: str) -> candidate_pb2.Candidate:
        return await _answer(self._stub.GetCandidate(pb.GetCandidateRequest(run=run, candidate=candidate)))

    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        fetched: list[candidate_pb2.Candidate] = []
        for start in range(0, max(1, len(ids)), PAGE):
            request = pb.GetCandidatesRequest(run=run, candidates=ids[start : start + PAGE])
            fetched += (await _answer(self._stub.GetCandidates(request))).candidates
        return fetched

    async def list_candidates(self, query: Query) -> Page:
        if query.offset < 0 or query.limit < 0:
            raise ValueError(f"offset and limit must not be negative, but are {query.offset} and {query.limit}")
        first = await self._page(query)
        records, total = list(first.candidates), first.total
        while len(records) < query.limit and query.offset + len(records) < total:
            rest = replace(query, offset=query.offset + len(records), limit=query.limit - len(records))
            page = await self._page(rest)
            if not page.candidates:
                break
            records.extend(page.candidates)
        return Page(tuple(records[: query.limit]), total)

    async def state_counts(self, run: str) -> dict[int, int]:
        states = (await self._status(run)).states
        return {candidate_pb2.State.Value(f"STATE_{name.upper()}"): count for name, count in states.items()}

    async def event_count(self, run: str) -> int:
        return (await self._status(run)).events

    async def tree(self, run: str) -> list[pb.TreeNode]:
        return list((await _answer(self._stub.GetTree(pb.RunRequest(run=run)))).nodes)

    async def subtree(self, run: str, candidate: str) -> list[pb.TreeNode]:
        return list((await self._relatives(run, candidate, subtree=True)).subtree)

    async def children(self, run: str, candidate: str) -> list[str]:
        return [child.id for child in (await self._relatives(run, candidate)).children]

    async def path(self, run: str, candidate: str) -> list[str]:
        return list((await self._relatives(run, candidate)).path)

    async def pool(self, run: str, at_sequence: int = 0) -> PoolRow | None:
        answer = await _answer(self._stub.GetPool(pb.GetPoolRequest(run=run, at_sequence=at_sequence)))
        name = run or (await self._status(run)).run
        return PoolRow(name, answer.sequence, tuple(answer.members), answer.entries) if answer.sequence else None

    async def baselines(self, run: str) -> list[candidate_pb2.Candidate]:
        return list((await _answer(self._stub.GetBaselines(pb.GetBaselinesRequest(run=run)))).baselines)

    async def nearest_motivations(
        self, run: str, embedding: Sequence[float], embedder: str, count: int, except_id: str
    ) -> list[Near]:
        request = pb.NearestMotivationsRequest(
            run=run, embedding=embedding, embedder=embedder, count=count, **{"except": except_id}
        )
        return await self._near(self._stub.NearestMotivations(request))

    async def nearest_programs(self, run: str, program: str, count: int, except_id: str) -> list[Near]:
        request = pb.NearestProgramsRequest(run=run, program=program, count=count, **{"except": except_id})
        return await self._near(self._stub.NearestPrograms(request))

    async def chain(self, run: str, candidate: str) -> list[LogRow]:
        answer = await _answer(self._stub.GetChain(pb.GetCandidateRequest(run=run, candidate=candidate)))
        return [
            LogRow(link.sequence, link.event.run, link.event.candidate, bytes.fromhex(link.sha256), link.event,
                   link.accepted, link.refused_because)
            for link in answer.links
        ]  # fmt: skip

    async def digest(self, run: str) -> tuple[str, int]:
        answer = await _answer(self._stub.GetDigest(pb.RunRequest(run=run)))
        return answer.digest, answer.events

    async def _status(self, run: str) -> pb.RunStatus:
        return await _answer(self._stub.GetRun(pb.RunRequest(run=run)))

    async def _relatives(self, run: str, candidate: str, subtree: bool = False) -> pb.RelativesReply:
        request = pb.GetRelativesRequest(run=run, candidate=candidate, subtree=subtree)
        return await _answer(self._stub.GetRelatives(request))

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
        return await _answer(self._stub.ListCandidates(request))

    async def _near(self, call: Awaitable[pb.NearestReply]) -> list[Near]:
        return [Near(near.candidate, near.similarity, near.same_structure) for near in (await _answer(call)).near]


async def _answer(call: Awaitable[T]) -> T:
    """The answer of a call. Raises the port's errors for status codes."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        reason = error.details() or error.code().name
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise NotFound(reason) from error
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
            raise ValueError(reason) from error
        if rpc.is_transient(error):
            raise ArchiveUnavailable(reason) from error
        raise
