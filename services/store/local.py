"""The Archive's API without a server: the same answers, from an archive that this process opens to read.

For the command line, where the archive's file is on the same machine: a question costs milliseconds, while starting a
process with a gRPC server would take a second. Nothing is applied here; a store may work on the same file meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from services.chassis.errors import SettingsError
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.service import ArchiveService

if TYPE_CHECKING:
    from services.contracts import archive_pb2_grpc


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

    Raises SettingsError for an impossible question, an unknown backend or a damaged file, ArchiveUnavailable.
    """
    archive = open_archive(url)
    await archive.open()
    try:
        calls = _Calls(ArchiveService(archive, asyncio.Condition(), RunLedger(archive)))
        yield cast("archive_pb2_grpc.ArchiveAsyncStub", calls)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    finally:
        await archive.close()
