"""`python -m services.analyst.reader`: the cognition base on request while no analyst runs.

It serves the gRPC service Cognition on a free port, prints the port, and ends when its standard input closes.
"""

import asyncio
import os
import sys

from services.analyst.cognition.corpus import CorpusError
from services.analyst.library import CognitionService, Library
from services.analyst.settings import AnalystSettings
from services.chassis import logs
from services.chassis.errors import SettingsError, Transient
from services.chassis.rpc import answer, reading
from services.chassis.service import SETTINGS_EXIT
from services.chassis.settings import load
from services.contracts import cognition_pb2, cognition_pb2_grpc
from services.llm.openai_embedder import endpoint_embedder


async def serve(settings: AnalystSettings) -> None:
    """Until standard input closes."""
    library = Library(settings.own_entries, settings.threshold, endpoint_embedder(os.environ))
    await library.index()
    server = reading(settings)
    cognition_pb2_grpc.add_CognitionServicer_to_server(CognitionService(library), server.grpc)
    await answer(server, cognition_pb2.DESCRIPTOR.services_by_name["Cognition"].full_name)


if __name__ == "__main__":
    logs.configure("analyst", "error")
    try:
        asyncio.run(serve(load(AnalystSettings, "analyst")))
    except (SettingsError, CorpusError, Transient) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
