"""`python -m services.analyst.tools`: the analyst's prompt and its cognition base outside a run.

`prompt analyse --candidate C` prints the prompt that the analyst would send about a candidate. `serve` starts the gRPC
service Cognition on a free port, prints the port, and ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import os
import sys

from pydantic import BaseModel

from services.analyst.app import AnalystSettings
from services.analyst.cognition import CorpusError
from services.analyst.handlers import SIBLINGS, dossier_of
from services.analyst.library import CognitionService, Library
from services.analyst.model_analyst import analyse_request
from services.archive.records import Runs
from services.chassis import logs
from services.chassis.errors import NotPossible, SettingsError, Transient
from services.chassis.rpc import loopback_server, serve_until_input_closes
from services.chassis.service import SETTINGS_EXIT
from services.chassis.settings import load
from services.contracts import archive_pb2, archive_pb2_grpc, cognition_pb2, cognition_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm.openai_embedder import endpoint_embedder
from services.llm.port import Request, Role
from services.llm.prompts import main


async def question(
    settings: AnalystSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """The analyst's first request, with the current relatives. Raises NotPossible for an unjudged candidate."""
    del role
    if not record.HasField("verdict"):
        raise NotPossible(f"candidate {record.id} is not judged, so there is nothing to analyse")
    library = Library(settings.own_entries, settings.threshold, endpoint_embedder(os.environ))
    request = archive_pb2.GetRelativesRequest(run=record.run, candidate=record.id, siblings=SIBLINGS)
    relatives = await archive.GetRelatives(request, timeout=30)
    dossier = await dossier_of(relatives, Runs(archive), library, lambda query, _mind: library.embedded(query))
    return analyse_request(dossier)


async def serve(settings: AnalystSettings) -> None:
    """Serve the cognition base until standard input closes."""
    library = Library(settings.own_entries, settings.threshold, endpoint_embedder(os.environ))
    await library.index()
    server = loopback_server(settings)
    cognition_pb2_grpc.add_CognitionServicer_to_server(CognitionService(library), server.grpc)
    await serve_until_input_closes(server, cognition_pb2.DESCRIPTOR.services_by_name["Cognition"].full_name)


if __name__ == "__main__":
    logs.configure_for_people("error")
    try:
        if sys.argv[1:] == ["serve"]:
            asyncio.run(serve(load(AnalystSettings, "analyst")))
        else:
            sys.exit(main("analyst", AnalystSettings, (Role.ANALYSE,), question, sys.argv[2:]))
    except (SettingsError, CorpusError, Transient) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
