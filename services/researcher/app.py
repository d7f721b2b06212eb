"""The researcher's settings and wiring."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from pydantic import Field

from services.chassis.rpc import channel
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc, checker_pb2_grpc, cognition_pb2_grpc
from services.llm.embedder import LocalEmbedder
from services.llm.minds import Minds
from services.llm.openai_embedder import MotivationEmbedder, RunEmbedder, endpoint_embedder
from services.llm.port import MIXED
from services.researcher.draft import Proposer
from services.researcher.handlers import Researcher
from services.researcher.mixed_proposer import MixedProposer
from services.researcher.model_proposer import ModelProposer
from services.researcher.offline_proposer import OfflineProposer

DIMENSION = 256  # of the local embedder, for texts of a paragraph


class ResearcherSettings(ServiceSettings):
    """The researcher's own variables begin with ASI_RESEARCHER_."""

    parallel: int = Field(4, ge=1, description="seats worked on at once; a language model has a limit of its own")


@asynccontextmanager
async def build(service: Service, settings: ResearcherSettings) -> AsyncIterator[None]:
    """Propose candidates for requested seats."""
    offline, local = OfflineProposer(), LocalEmbedder(DIMENSION)
    endpoint = endpoint_embedder(os.environ)

    async def choose(mind: str, job: Job) -> Proposer:
        model_mind = await minds.mind(mind, job)
        if model_mind is None:
            return offline
        model = ModelProposer(model_mind, checker_stub)
        return MixedProposer(model, offline) if mind == MIXED else model

    async with AsyncExitStack() as stack:
        archive, checker, cognition = [
            await stack.enter_async_context(channel(address, settings))
            for address in (settings.archive_address, settings.checker_address, settings.cognition_address)
        ]
        archive_stub, checker_stub = archive_pb2_grpc.ArchiveStub(archive), checker_pb2_grpc.CheckerStub(checker)
        minds = Minds(service.name, service.bus, archive_stub, settings.artifacts)
        stack.push_async_callback(minds.close)
        embedder = RunEmbedder(endpoint, minds)
        stack.push_async_callback(embedder.close)
        researcher = Researcher(
            archive_stub,
            checker_stub,
            cognition_pb2_grpc.CognitionStub(cognition),
            MotivationEmbedder(local, embedder),
            embedder.vector,
            choose,
        )
        await service.work("researcher", researcher.handle, settings.parallel)
        yield
