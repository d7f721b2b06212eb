"""The archive as commands ask it: of the running system, of a remote one, or of the files when nothing runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis.errors import NotFound, SettingsError
from services.chassis.rpc import channel
from services.console.local.system import running_system
from services.console.settings import ConsoleSettings
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2

PAGE = 200


@asynccontextmanager
async def open_archive(settings: ConsoleSettings) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A stub of the archive. Raises NotFound when there is neither a system nor an archive."""
    async with contextlib.AsyncExitStack() as stack:
        address = _running_address(settings)
        if address is None:
            address = await stack.enter_async_context(_reader(settings))
        connection = await stack.enter_async_context(channel(address, settings))
        yield archive_pb2_grpc.ArchiveStub(connection)


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


def _running_address(settings: ConsoleSettings) -> str | None:
    """ASI_ARCHIVE_ADDRESS if it is set, else what the system of this data folder says."""
    if "ASI_ARCHIVE_ADDRESS" in os.environ:
        return settings.archive_address
    content = running_system(settings)
    addresses = content.get("addresses") if content else None
    return str(addresses["archive"]) if isinstance(addresses, dict) else None


@asynccontextmanager
async def _reader(settings: ConsoleSettings) -> AsyncIterator[str]:
    """A store that only answers, for as long as the context lasts."""
    if "ASI_ARCHIVE_URL" not in os.environ and not (settings.data_dir / "archive.db").exists():
        raise NotFound(f"there is no archive in {settings.data_dir} yet: start a run with `asi-arch run`")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.store.reader",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None  # noqa: S101 - asked for above
    assert process.stderr is not None  # noqa: S101
    try:
        port = (await process.stdout.readline()).decode().strip()
        if not port:
            words = (await process.stderr.read()).decode().strip().splitlines()
            raise SettingsError(f"the archive cannot be read: {words[-1] if words else 'no reason was given'}")
        yield f"127.0.0.1:{port}"
    finally:
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 5)
        if process.returncode is None:
            process.kill()
