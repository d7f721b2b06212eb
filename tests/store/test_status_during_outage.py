"""The status of a store during an outage of its database and while it catches up with the log."""

from pathlib import Path

import grpc.aio
import pytest

from services.chassis.rpc import is_transient
from services.console.commands.status import _lines
from services.contracts import archive_pb2
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.port import WriterState
from services.store.service import ArchiveService
from tests.archive_server import archive_client
from tests.store.simulation import Simulation


async def test_status_reports_an_outage_and_catching_up(finished: Simulation, tmp_path: Path) -> None:
    """The first as a line of `asi-arch status`, the second as something to wait for, also before the writer knows."""
    archive = open_archive(f"sqlite:///{tmp_path}/archive.db")
    await archive.open()
    await archive.apply(finished.log)
    writer = WriterState(outage="the disk is full")
    async with archive_client(ArchiveService(archive, RunLedger(archive), writer)) as stub:
        status = await stub.GetRun(archive_pb2.RunRequest(run="r1"))
        writer.behind = True
        with pytest.raises(
            grpc.aio.AioRpcError, match="catching up with the log once this is over: the disk"
        ) as refused:
            await stub.GetRun(archive_pb2.RunRequest(run="r1"))
        writer.behind, writer.reached = False, len(finished.log) + 1  # of which the archive has lost the last
        with pytest.raises(grpc.aio.AioRpcError, match="has lost events") as lost:
            await stub.GetCandidate(archive_pb2.GetCandidateRequest(run="r1", candidate="c000999"))
    await archive.close()

    assert ("OUTAGE", "the disk is full") in _lines(status)
    assert is_transient(refused.value)
    assert is_transient(lost.value)
