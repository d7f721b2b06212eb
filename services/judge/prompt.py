"""`python -m services.judge.prompt score --candidate C`: the question that the judge would put about a candidate."""

from __future__ import annotations

import sys

from pydantic import BaseModel

from services.chassis import logs
from services.chassis.errors import NotPossible, NotYet, Rejected
from services.chassis.rpc import channel
from services.contracts import archive_pb2_grpc, checker_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.judge.app import JudgeSettings
from services.judge.handlers import JudgeHandler
from services.judge.judges import Judge, OfflineJudge, score_request
from services.llm.port import Request, Role
from services.llm.prompts import main, plain


async def question(
    settings: JudgeSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """The first of the run's `judge_times` questions. Raises NotPossible for what is not measured."""
    del role
    if not record.training.HasField("loss"):
        raise NotPossible(f"candidate {record.id} is not measured, so there is nothing to judge")
    async with channel(settings.checker_address, settings) as checker:
        handler = JudgeHandler(archive, checker_pb2_grpc.CheckerStub(checker), _offline)
        try:
            return plain(score_request(await handler.case(record)))
        except (NotYet, Rejected) as error:
            raise NotPossible(f"candidate {record.id} cannot be judged: {error}") from None


async def _offline(_mind: str, _job: object) -> Judge:
    """No model is asked."""
    return OfflineJudge()


if __name__ == "__main__":
    logs.configure("judge", "error")
    sys.exit(main("judge", JudgeSettings, (Role.SCORE,), question))
