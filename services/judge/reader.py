"""`python -m services.judge.reader`: verdicts on request while no judge runs, from the archive at ASI_ARCHIVE_ADDRESS.

It serves the gRPC service Judge on a free port, prints the port, and ends when its standard input closes. Nothing is
recorded. A run that thinks through an endpoint needs that endpoint's variables here.
"""

import asyncio
import sys

from services.chassis import logs
from services.chassis.errors import SettingsError
from services.chassis.rpc import answer, channel, reading
from services.chassis.service import SETTINGS_EXIT
from services.chassis.settings import load
from services.contracts import archive_pb2_grpc, checker_pb2_grpc, judge_pb2, judge_pb2_grpc
from services.judge.app import Calibration, JudgeService, JudgeSettings
from services.judge.handlers import JudgeHandler
from services.llm.minds import ArchiveLedger


async def serve(settings: JudgeSettings) -> None:
    """Until standard input closes."""
    async with (
        channel(settings.archive_address, settings) as archive_channel,
        channel(settings.checker_address, settings) as checker_channel,  # never asked: a verdict checks nothing
    ):
        archive = archive_pb2_grpc.ArchiveStub(archive_channel)
        calibration = Calibration(ArchiveLedger(archive))
        handler = JudgeHandler(archive, checker_pb2_grpc.CheckerStub(checker_channel), calibration.judge)
        server = reading(settings)
        judge_pb2_grpc.add_JudgeServicer_to_server(JudgeService(archive, handler), server.grpc)
        try:
            await answer(server, judge_pb2.DESCRIPTOR.services_by_name["Judge"].full_name)
        finally:
            await calibration.close()


if __name__ == "__main__":
    logs.configure("judge", "error")
    try:
        asyncio.run(serve(load(JudgeSettings, "judge")))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
