"""`python -m services.analyst.prompt analyse --candidate C`: the question that the analyst would put."""

from __future__ import annotations

import os
import sys

from pydantic import BaseModel

from services.analyst.handlers import Analysing, AnalystHandler
from services.analyst.library import Library
from services.analyst.model_analyst import analyse_request
from services.analyst.offline_analyst import OfflineAnalyst
from services.analyst.settings import AnalystSettings
from services.chassis import logs
from services.chassis.errors import NotPossible
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm.openai_embedder import endpoint_embedder
from services.llm.port import Request, Role
from services.llm.prompts import main, plain


async def question(
    settings: AnalystSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """The first asking, with the relatives as the archive holds them now. Raises NotPossible for what is not judged."""
    del role
    if not record.HasField("verdict"):
        raise NotPossible(f"candidate {record.id} is not judged, so there is nothing to analyse")
    library = Library(settings.own_entries, settings.threshold, endpoint_embedder(os.environ))
    handler = AnalystHandler(archive, library, _unpaid, _nobody)
    dossier = await handler.dossier(record, lambda query, _mind: library.embedded(query))
    return plain(analyse_request(dossier))


async def _unpaid(_query: str, _mind: str, _job: object) -> None:
    """No run pays for anything."""


async def _nobody(_mind: str, _job: object) -> Analysing:
    """Nobody is asked."""
    return OfflineAnalyst()


if __name__ == "__main__":
    logs.configure("analyst", "error")
    sys.exit(main("analyst", AnalystSettings, (Role.ANALYSE,), question))
