"""The analyst's settings and wiring."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field

from services.analyst.cognition import CorpusError, load_with
from services.analyst.handlers import Analysing, AnalystHandler
from services.analyst.library import CognitionService, Library
from services.analyst.model_analyst import ModelAnalyst
from services.analyst.offline_analyst import OfflineAnalyst
from services.chassis.errors import SettingsError, Transient
from services.chassis.logs import get_logger
from services.chassis.rpc import channel
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc, cognition_pb2, cognition_pb2_grpc
from services.llm.minds import Minds, require_minds
from services.llm.openai_embedder import RunEmbedder, endpoint_embedder


class AnalystSettings(ServiceSettings):
    """The analyst's own variables begin with ASI_ANALYST_."""

    parallel: int = Field(8, ge=1, description="candidates analysed at once")
    threshold: float | None = Field(
        None, ge=-1, le=1, description="least cosine of a retrieved entry; default: 0.2, and 0.5 with an endpoint"
    )
    cognition_dir: Path | None = Field(None, description="entries added by users; default: cognition/ below data_dir")

    @property
    def own_entries(self) -> Path:
        """The folder of `asi-arch cognition add`."""
        return self.cognition_dir or self.data_dir / "cognition"


def require(settings: AnalystSettings) -> None:
    """Raises SettingsError for models, a place of artifacts or added entries that could not be used."""
    require_minds(settings)
    if settings.cognition_dir is not None and not settings.cognition_dir.is_dir():
        raise SettingsError(f"ASI_ANALYST_COGNITION_DIR={settings.cognition_dir} is no folder: create it, or unset it.")
    try:
        load_with(settings.own_entries)
    except CorpusError as error:
        raise SettingsError(f"ASI_ANALYST_COGNITION_DIR={settings.own_entries}: {error}.") from None


@asynccontextmanager
async def build(service: Service, settings: AnalystSettings) -> AsyncIterator[None]:
    """Analyse judged candidates, and serve the cognition base."""
    endpoint = endpoint_embedder(os.environ)
    library = Library(settings.own_entries, settings.threshold, endpoint)
    try:
        await library.index()
    except Transient as transient:
        get_logger().warning("the cognition base is embedded when the endpoint is reachable", reason=str(transient))
    offline = OfflineAnalyst()

    async def choose(mind: str, job: Job) -> Analysing:
        thinking = await minds.mind(mind, job)
        return offline if thinking is None else ModelAnalyst(thinking, offline)

    async with channel(settings.archive_address, settings) as archive_channel:
        archive = archive_pb2_grpc.ArchiveStub(archive_channel)
        minds = Minds(service.name, service.bus, archive, settings.artifacts)
        embedder = RunEmbedder(endpoint, minds)
        handler = AnalystHandler(archive, library, embedder.vector, choose)
        cognition_pb2_grpc.add_CognitionServicer_to_server(CognitionService(library), service.server.grpc)
        service.rpc_names.append(cognition_pb2.DESCRIPTOR.services_by_name["Cognition"].full_name)
        await service.work("analyst", handler.handle, settings.parallel)
        try:
            yield
        finally:
            await minds.close()
            await embedder.close()
