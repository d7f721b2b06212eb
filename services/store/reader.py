"""Reads an archive while no system runs: in this process, or for others as `python -m services.store.reader`.

`local_archive` reads in this process, which avoids the second that a server takes to start. The program serves the gRPC
service Archive on a free port of this machine, prints the port, and ends when its standard input closes. Neither
applies events; a store may use the same file at the same time.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from services.chassis.errors import SettingsError
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.service import ArchiveService

if TYPE_CHECKING:
    from services.contracts import archive_pb2_grpc
    from services.store.app import StoreSettings


class _Calls:
    """The methods of the generated stub. Errors are those of `services.chassis.errors`, not gRPC's."""

    def __init__(self, service: ArchiveService) -> None:
        self._service = service

    def __getattr__(self, method: str) -> Any:
        answer = getattr(self._service, method)

        def call(request: object, timeout: float | None = None) -> Any:
            del timeout  # a local file answers, or raises ArchiveUnavailable
            return answer(request, None)

        return call


@asynccontextmanager
async def local_archive(url: str) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A stub of the archive at `url`, for as long as the context lasts.

    Raises SettingsError for an invalid request, an unknown backend or a damaged file, ArchiveUnavailable.
    """
    archive = open_archive(url)
    await archive.open()
    try:
        calls = _Calls(ArchiveService(archive, RunLedger(archive)))
        yield cast("archive_pb2_grpc.ArchiveAsyncStub", calls)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    finally:
        await archive.close()


async def serve(settings: StoreSettings) -> None:
    """Until standard input closes."""
    from services.chassis.rpc import Server  # what `local_archive` does without
    from services.contracts import archive_pb2_grpc

    archive = open_archive(settings.archive)
    await archive.open()
    server = Server(settings.model_copy(update={"listen": "127.0.0.1:0", "grpc_ca": None}))
    answers = ArchiveService(archive, RunLedger(archive))
    archive_pb2_grpc.add_ArchiveServicer_to_server(answers, server.grpc)
    await server.start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    await archive.close()


if __name__ == "__main__":
    from services.chassis.service import SETTINGS_EXIT
    from services.chassis.settings import load
    from services.store.app import StoreSettings

    try:
        asyncio.run(serve(load(StoreSettings, "store")))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(SETTINGS_EXIT)
