"""The researcher, put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.chassis.llm.embedder import LocalEmbedder
from services.chassis.rpc import channel
from services.chassis.service import Service
from services.contracts import archive_pb2_grpc, checker_pb2_grpc, cognition_pb2_grpc
from services.researcher.handlers import Researcher
from services.researcher.offline.proposer import OfflineProposer
from services.researcher.settings import ResearcherSettings


@asynccontextmanager
async def build(service: Service, settings: ResearcherSettings) -> AsyncIterator[None]:
    """Fill the seats that the store gives out."""
    offline = OfflineProposer()
    async with AsyncExitStack() as stack:
        archive, checker, cognition = [
            await stack.enter_async_context(channel(address, settings))
            for address in (settings.archive_address, settings.checker_address, settings.cognition_address)
        ]
        researcher = Researcher(
            archive_pb2_grpc.ArchiveStub(archive),
            checker_pb2_grpc.CheckerStub(checker),
            cognition_pb2_grpc.CognitionStub(cognition),
            LocalEmbedder(256),
            lambda _mind: offline,
        )
        await service.work("researcher", researcher.handle, settings.parallel)
        yield
