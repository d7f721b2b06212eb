"""The store, put together: one archive, its writer, its questions, the keeper of dead letters."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.errors import SettingsError
from services.chassis.logs import get_logger
from services.chassis.service import Service
from services.contracts import archive_pb2, archive_pb2_grpc
from services.store.applier import Applier
from services.store.backends import open_archive
from services.store.deadletters import DeadLetterKeeper
from services.store.gauges import Gauges
from services.store.ledger import RunLedger
from services.store.port import Archive, ArchiveUnavailable
from services.store.service import ArchiveService
from services.store.settings import StoreSettings

OPEN_SECONDS = 1.0


async def _open_patiently(archive: Archive) -> None:
    """A database that is not up yet is waited for: events wait in their log meanwhile.

    Raises SettingsError where its tables or indexes are not what the code expects.
    """
    while True:
        try:
            await archive.open()
            if differences := await archive.drift():
                raise SettingsError(
                    f"the archive is not as it must be: {differences[0]} (differences: {len(differences)}); "
                    "`asi-arch setup` lists them, and a replay of the log makes a new one."
                )
            return
        except ArchiveUnavailable as error:
            get_logger().error("the database is out of reach", error=str(error))
            await asyncio.sleep(OPEN_SECONDS)


@asynccontextmanager
async def build(service: Service, settings: StoreSettings) -> AsyncIterator[None]:
    """Open the archive and serve it until the context is left. Raises SettingsError for an impossible archive URL."""
    archive = open_archive(settings.archive)
    await _open_patiently(archive)
    try:
        applier = Applier(service.bus, archive, await service.bus.consumer("store"), settings.batch)
        keeper = DeadLetterKeeper(service.bus, await service.bus.consumer("dead-letters"))
        answers = ArchiveService(archive, applier.changed, RunLedger(archive))
        archive_pb2_grpc.add_ArchiveServicer_to_server(answers, service.server.grpc)
        service.rpc_names.append(archive_pb2.DESCRIPTOR.services_by_name["Archive"].full_name)
        gauges = Gauges(archive, service.bus)
        service.tasks += [applier.run(), keeper.run(), gauges.run()]
        service.healthy = lambda: applier.available
        yield
    finally:
        await archive.close()
