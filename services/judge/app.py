"""Builds the judge: its settings, its gRPC service, and the choice of a judge for a run's mind."""

# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from pydantic import Field

from services.chassis.errors import NotPossible, NotYet, Rejected, SettingsError
from services.chassis.rpc import channel
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, candidate_pb2, checker_pb2_grpc, judge_pb2, judge_pb2_grpc
from services.judge.handlers import JudgeHandler, case_of
from services.judge.judges import Judge, ModelJudge, OfflineJudge
from services.llm.budget import BudgetLedger
from services.llm.minds import ArchiveLedger, Minds
from services.llm.openai_mind import OpenAIMind
from services.llm.port import OFFLINE, OPENAI


class JudgeSettings(ServiceSettings):
    """Variables of the judge begin with ASI_JUDGE_."""

    parallel: int = Field(8, ge=1, description="candidates judged at once")


class Calibration:
    """Judges for requests that are charged to a run's budget but not recorded with a candidate."""

    def __init__(self, ledger: BudgetLedger) -> None:
        self._ledger = ledger
        self._openai: OpenAIMind | None = None

    async def judge(self, mind: str, job: Job | None = None) -> Judge:
        """The judge for a run's mind. Raises NotPossible for a replay, and if the environment has no endpoint."""
        del job
        if mind in ("", OFFLINE):
            return OfflineJudge()
        if mind != OPENAI:
            raise NotPossible(f"mind is {mind!r}, which answers from a record: calibrate a run whose mind is {OPENAI}")
        if self._openai is None:
            try:
                self._openai = OpenAIMind.from_environment(os.environ, self._ledger)
            except SettingsError as error:
                raise NotPossible(str(error)) from None
        return ModelJudge(self._openai)

    async def close(self) -> None:
        if self._openai is not None:
            await self._openai.close()


class JudgeService(judge_pb2_grpc.JudgeServicer):
    """Repeats the verdict on a measured candidate without recording it."""

    def __init__(self, archive: archive_pb2_grpc.ArchiveAsyncStub, handler: JudgeHandler) -> None:
        self._archive = archive
        self._handler = handler

    async def Judge(
        self, request: judge_pb2.JudgeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> candidate_pb2.Verdict:
        question = archive_pb2.GetCandidateRequest(run=request.run, candidate=request.candidate)
        record = await self._archive.GetCandidate(question, timeout=30)
        if not record.training.HasField("loss"):
            state = candidate_pb2.State.Name(record.state).removeprefix("STATE_").lower()
            raise NotPossible(f"candidate {record.id} has no held-out loss to judge: it is {state}")
        try:
            case = await case_of(self._archive, self._handler.runs, record)
            return await self._handler.verdict(case, None)
        except (NotYet, Rejected) as error:
            raise NotPossible(f"candidate {record.id} of run {record.run} cannot be judged: {error}") from None


@asynccontextmanager
async def build(service: Service, settings: JudgeSettings) -> AsyncIterator[None]:
    """Judge trained candidates, and serve the Judge service."""
    offline = OfflineJudge()

    async def choose(mind: str, job: Job | None) -> Judge:
        if job is None:
            return await calibration.judge(mind)
        model = await minds.mind(mind, job)
        return offline if model is None else ModelJudge(model)

    async with (
        channel(settings.archive_address, settings) as archive_channel,
        channel(settings.checker_address, settings) as checker_channel,
    ):
        archive = archive_pb2_grpc.ArchiveStub(archive_channel)
        calibration = Calibration(ArchiveLedger(archive))
        minds = Minds(service.name, service.bus, archive, settings.artifacts)
        handler = JudgeHandler(archive, checker_pb2_grpc.CheckerStub(checker_channel), choose)
        judge_pb2_grpc.add_JudgeServicer_to_server(JudgeService(archive, handler), service.server.grpc)
        service.rpc_names.append(judge_pb2.DESCRIPTOR.services_by_name["Judge"].full_name)
        await service.work("judge", handler.handle, settings.parallel)
        try:
            yield
        finally:
            await calibration.close()
            await minds.close()
