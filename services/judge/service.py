# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The gRPC service Judge: the verdict on a measured candidate once more, outside its way."""

from __future__ import annotations

from typing import Any

import grpc.aio

from services.chassis.errors import NotPossible, NotYet, Rejected
from services.contracts import archive_pb2, archive_pb2_grpc, candidate_pb2, judge_pb2, judge_pb2_grpc
from services.judge.handlers import JudgeHandler


class JudgeService(judge_pb2_grpc.JudgeServicer):
    """Nothing is recorded: the caller compares."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub, handler: JudgeHandler) -> None:
        self._archive = archive
        self._handler = handler

    async def Judge(
        self, request: judge_pb2.JudgeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> candidate_pb2.Verdict:
        wanted = archive_pb2.GetCandidateRequest(run=request.run, candidate=request.candidate)
        record = await self._archive.GetCandidate(wanted, timeout=30)
        if not record.training.HasField("loss"):
            raise NotPossible(f"candidate {record.id} is not measured: it is {candidate_pb2.State.Name(record.state)}")
        try:
            return await self._handler.verdict(await self._handler.case(record), None)
        except (NotYet, Rejected) as error:
            raise NotPossible(f"candidate {record.id} of run {record.run} cannot be judged: {error}") from None
