"""The archive as commands ask it: of the running system, of a remote one, or of the files when nothing runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from services.chassis.rpc import channel
from services.console.local.readers import answering
from services.console.local.system import log_server, running_system
from services.console.settings import ConsoleSettings
from services.console.unknown import not_found
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2

PAGE = 200


@asynccontextmanager
async def open_archive(settings: ConsoleSettings) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A stub of the archive.

    Raises NotFound when there is neither a system nor an archive, or instead of what the archive does not find: with
    the names that are near.
    """
    async with (
        answering(settings, "archive") as address,
        channel(address["ASI_ARCHIVE_ADDRESS"], settings) as connection,
    ):
        archive = archive_pb2_grpc.ArchiveStub(connection)
        try:
            yield archive
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise await not_found(archive, error) from None
            raise


async def all_candidates(
    archive: archive_pb2_grpc.ArchiveAsyncStub, request: pb.ListCandidatesRequest
) -> list[candidate_pb2.Candidate]:
    """Every page of a list."""
    found: list[candidate_pb2.Candidate] = []
    request.page_size = PAGE
    while True:
        reply = await archive.ListCandidates(request, timeout=30)
        found += reply.candidates
        if not reply.next_page_token:
            return found
        request.page_token = reply.next_page_token


def catch_up(settings: ConsoleSettings) -> None:
    """Where no store runs, the archive takes in what was just published."""
    if running_system(settings) is None and not settings.archive_is_elsewhere:
        with log_server(settings) as log:
            command = [sys.executable, "-m", "services.store.tools", "catch-up"]
            subprocess.run(command, env={**os.environ, **log}, check=False)
