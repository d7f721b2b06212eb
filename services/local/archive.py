"""Access to the archive: a local SQLite file is read in this process, other archives over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from services.archive import all_candidates
from services.chassis.errors import NotFound, NotPossible, Transient
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.local.settings import SQLITE, ClientSettings, did_you_mean, running_system

if TYPE_CHECKING:
    from services.contracts import archive_pb2_grpc

APPLY_SECONDS = 30.0
APPLY_RATE = 200  # events a second that the slowest archive applies
_RUN = re.compile(r"no run is called (.+)", re.DOTALL)
_CANDIDATE = re.compile(r"run (\S+) has no candidate '(.*)'")


@asynccontextmanager
async def open_archive(settings: ClientSettings) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A stub of the archive.

    It is the store at ASI_ARCHIVE_ADDRESS if that is set, else the SQLite file, else the running store, else the
    database. Raises NotFound without an archive, and for unknown names with similar ones; Transient if nothing answers
    at ASI_ARCHIVE_ADDRESS.
    """
    system = running_system(settings)
    if settings.archive_is_elsewhere:
        opened = _remote(settings, settings.archive_address, required=True)
    elif system is not None and not settings.archive_url.startswith(SQLITE):
        opened = _remote(settings, system.addresses["archive"])
    else:
        settings.require_archive()
        from services.store.reader import local_archive

        opened = local_archive(settings.archive_url)
    async with opened as archive:
        try:
            yield archive
        except Exception as error:
            if (refusal := _not_found(error)) is None:
                raise
            raise NotFound(f"{refusal}{await _suggestion(archive, refusal)}") from None


async def find_candidates(settings: ClientSettings, run: str, *names: str) -> list[candidate_pb2.Candidate]:
    """Candidates by their ids or names. Raises NotFound with similar names."""
    async with open_archive(settings) as archive:
        requests = [pb.GetCandidateRequest(run=run, candidate=name) for name in names]
        return [await archive.GetCandidate(request, timeout=30) for request in requests]


async def run_and_candidates(settings: ClientSettings, run: str) -> tuple[pb.RunStatus, list[candidate_pb2.Candidate]]:
    """A run and all its candidates, whole. An empty name is the newest run."""
    async with open_archive(settings) as archive:
        return await read_run(archive, run)


async def read_run(
    archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, slim: bool = False
) -> tuple[pb.RunStatus, list[candidate_pb2.Candidate]]:
    """As `run_and_candidates`; `slim`: without programs and curves."""
    status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
    return status, await all_candidates(archive, pb.ListCandidatesRequest(run=status.run, slim=slim))


async def candidate_with_chain(
    settings: ClientSettings, run: str, candidate: str
) -> tuple[pb.RunStatus, candidate_pb2.Candidate, Sequence[pb.ChainLink]]:
    """The run, the candidate, and its events, oldest first."""
    async with open_archive(settings) as archive:
        request = pb.GetCandidateRequest(run=run, candidate=candidate)
        record = await archive.GetCandidate(request, timeout=30)
        status = await archive.GetRun(pb.RunRequest(run=record.run), timeout=30)
        return status, record, (await archive.GetChain(request, timeout=30)).links


async def run_status(settings: ClientSettings, run: str) -> pb.RunStatus:
    """The state of a run. An empty name is the newest run."""
    async with open_archive(settings) as archive:
        return await archive.GetRun(pb.RunRequest(run=run), timeout=30)


async def catch_up(settings: ClientSettings) -> None:
    """Apply published events to the archive if no store runs."""
    if running_system(settings) is None and not settings.archive_is_elsewhere:
        from services.local.log import log_environment

        with log_environment(settings) as log:
            command = [sys.executable, "-m", "services.store.tools", "catch-up"]
            await (await asyncio.create_subprocess_exec(*command, env={**os.environ, **log})).wait()


async def until_applied(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, sequence: int = 1) -> None:
    """Wait until the archive holds the run's event of this sequence. Raises NotPossible if it takes too long."""
    import grpc.aio

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(APPLY_SECONDS + sequence / APPLY_RATE):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError, NotFound, Transient):
                    status = await archive.GetRun(pb.RunRequest(run=run), timeout=5)
                    if status.sequence >= sequence:
                        return
                await asyncio.sleep(0.1)
    raise NotPossible(f"the store has not applied the events of run {run}: see the store's log")


@asynccontextmanager
async def _remote(
    settings: ClientSettings, address: str, required: bool = False
) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """`required`: a server must listen there now; else calls wait for one that is started again."""
    from services.chassis.rpc import channel, require_server
    from services.contracts import archive_pb2_grpc

    async with channel(address, settings) as connection:
        if required:
            await require_server(connection, address, "ASI_ARCHIVE_ADDRESS")
        yield archive_pb2_grpc.ArchiveStub(connection)


def _not_found(error: Exception) -> str | None:
    """The archive's message about an unknown name; None for any other error."""
    if isinstance(error, NotFound):
        return str(error)
    if "grpc" in sys.modules:  # else nothing was asked over the network
        import grpc.aio

        if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.NOT_FOUND:
            return error.details() or "not found"
    return None


async def _suggestion(archive: archive_pb2_grpc.ArchiveAsyncStub, sentence: str) -> str:
    """Similar names, to complete the archive's message."""
    if match := _RUN.fullmatch(sentence):
        runs = [status.run for status in (await archive.ListRuns(pb.ListRunsRequest(), timeout=10)).runs]
        return did_you_mean(match[1], runs) or f"; runs: {', '.join(runs[:10]) or 'none yet'}"
    if match := _CANDIDATE.fullmatch(sentence):
        nodes = (await archive.GetTree(pb.RunRequest(run=match[1]), timeout=10)).nodes
        return did_you_mean(match[2], [name for node in nodes for name in (node.id, node.name) if name])
    return ""
