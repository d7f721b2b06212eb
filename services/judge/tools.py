"""`python -m services.judge.tools`: print prompts, and serve verdicts outside a run.

`prompt score --candidate C` prints the prompt about a candidate. `serve` starts the gRPC service Judge on a free port,
prints the port, and ends when standard input closes; it reads the archive at ASI_ARCHIVE_ADDRESS. For a run whose mind
is an endpoint, the endpoint's variables must be set.
"""

from __future__ import annotations

import asyncio
import sys

from pydantic import BaseModel

from services.archive.records import Runs
from services.chassis import logs
from services.chassis.errors import NotPossible, NotYet, Rejected, SettingsError
from services.chassis.rpc import channel, loopback_server, serve_until_input_closes
from services.chassis.service import SETTINGS_EXIT
from services.chassis.settings import load
from services.contracts import archive_pb2_grpc, checker_pb2_grpc, judge_pb2, judge_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.judge.app import Calibration, JudgeService, JudgeSettings
from services.judge.handlers import JudgeHandler, case_of
from services.judge.judges import score_request
from services.llm.minds import ArchiveLedger
from services.llm.port import Request, Role
from services.llm.prompts import main


async def question(
    settings: JudgeSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """The request about a candidate. Raises NotPossible if it is not measured."""
    del settings, role
    if not record.training.HasField("loss"):
        raise NotPossible(f"candidate {record.id} is not measured, so there is nothing to judge")
    try:
        return score_request(await case_of(archive, Runs(archive), record))
    except (NotYet, Rejected) as error:
        raise NotPossible(f"candidate {record.id} cannot be judged: {error}") from None


async def serve(settings: JudgeSettings) -> None:
    async with (
        channel(settings.archive_address, settings) as archive_channel,
        channel(settings.checker_address, settings) as checker_channel,  # not called for verdicts
    ):
        archive = archive_pb2_grpc.ArchiveStub(archive_channel)
        calibration = Calibration(ArchiveLedger(archive))
        handler = JudgeHandler(archive, checker_pb2_grpc.CheckerStub(checker_channel), calibration.judge)
        server = loopback_server(settings)
        judge_pb2_grpc.add_JudgeServicer_to_server(JudgeService(archive, handler), server.grpc)
        try:
            await serve_until_input_closes(server, judge_pb2.DESCRIPTOR.services_by_name["Judge"].full_name)
        finally:
            await calibration.close()


if __name__ == "__main__":
    logs.configure_for_people("error")
    try:
        if sys.argv[1:] == ["serve"]:
            asyncio.run(serve(load(JudgeSettings, "judge")))
        else:
            sys.exit(main("judge", JudgeSettings, (Role.SCORE,), question, sys.argv[2:]))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
