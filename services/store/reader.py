"""`python -m services.store.reader`: answers questions about an archive while no system runs.

It opens the archive, serves the gRPC service Archive on a free port of this machine, prints the port, and ends when its
standard input closes. It applies nothing: an archive that is behind its log stays so until a store runs.
"""

import asyncio
import sys

from services.chassis.errors import SettingsError
from services.chassis.rpc import Server
from services.chassis.service import SETTINGS_EXIT
from services.chassis.settings import load
from services.contracts import archive_pb2_grpc
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.service import ArchiveService
from services.store.settings import StoreSettings


async def serve(settings: StoreSettings) -> None:
    """Until standard input closes."""
    archive = open_archive(settings.archive)
    await archive.open()
    server = Server(settings.model_copy(update={"listen": "127.0.0.1:0", "grpc_ca": None}))
    answers = ArchiveService(archive, asyncio.Condition(), RunLedger(archive))
    archive_pb2_grpc.add_ArchiveServicer_to_server(answers, server.grpc)
    await server.start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    await archive.close()


if __name__ == "__main__":
    try:
        asyncio.run(serve(load(StoreSettings, "store")))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
