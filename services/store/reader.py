"""Reads an archive without a running system: in this process, or as the server `python -m services.store.reader`.

`local_archive` avoids the second that a server takes to start. The server provides the gRPC service Archive on a free
loopback port, prints the port, and ends when its standard input closes. Neither applies events, so that both are safe
alongside a running store.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from services.chassis.errors import SettingsError, Transient, sentence
from services.store.backends import opened
from services.store.ledger import RunLedger
from services.store.service import ArchiveService

if TYPE_CHECKING:
    from services.contracts import archive_pb2_grpc
    from services.store.app import StoreSettings


class _LocalStub:
    """The generated stub's methods, called locally. Errors are those of `services.chassis.errors`, not gRPC's."""

    def __init__(self, service: ArchiveService) -> None:
        self._service = service

    def __getattr__(self, method: str) -> Any:
        handler = getattr(self._service, method)
        return lambda request, timeout=None: handler(request, None)  # noqa: ARG005 - a local file needs no timeout


@asynccontextmanager
async def local_archive(url: str) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A stub of the archive at `url` within the context.

    Raises SettingsError for an invalid request, an unknown backend or a damaged file, and ArchiveUnavailable.
    """
    async with opened(url) as archive:
        try:
            yield cast("archive_pb2_grpc.ArchiveAsyncStub", _LocalStub(ArchiveService(archive, RunLedger(archive))))
        except ValueError as error:
            raise SettingsError(str(error)) from error


async def serve(settings: StoreSettings) -> None:
    """Serve until standard input closes."""
    from services.chassis.rpc import loopback_server, serve_until_input_closes  # not needed by `local_archive`
    from services.contracts import archive_pb2_grpc

    async with opened(settings.archive) as archive:
        server = loopback_server(settings)
        service = ArchiveService(archive, RunLedger(archive))
        archive_pb2_grpc.add_ArchiveServicer_to_server(service, server.grpc)
        await serve_until_input_closes(server)


if __name__ == "__main__":
    from services.chassis.service import SETTINGS_EXIT
    from services.chassis.settings import load
    from services.store.app import StoreSettings

    try:
        asyncio.run(serve(load(StoreSettings, "store")))
    except (SettingsError, Transient, OSError) as error:
        sys.stderr.write(f"{sentence(error)}\n")
        sys.exit(SETTINGS_EXIT)
