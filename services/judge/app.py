"""The judge, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.rpc import channel
from services.chassis.service import Service
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc, checker_pb2_grpc, judge_pb2, judge_pb2_grpc
from services.judge.calibration import Calibration
from services.judge.handlers import JudgeHandler
from services.judge.model.judge import ModelJudge
from services.judge.offline.judge import OfflineJudge
from services.judge.opinion import Judging
from services.judge.service import JudgeService
from services.judge.settings import JudgeSettings
from services.llm.minds import ArchiveLedger, Minds


@asynccontextmanager
async def build(service: Service, settings: JudgeSettings) -> AsyncIterator[None]:
    """Judge trained candidates, and answer questions about verdicts."""
    offline = OfflineJudge()

    async def choose(mind: str, job: Job | None) -> Judging:
        if job is None:
            return await calibration.judging(mind)
        thinking = await minds.mind(mind, job)
        return offline if thinking is None else ModelJudge(thinking)

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
