"""The status of a store during an outage of its database and while it catches up with the log."""

from pathlib import Path

import grpc.aio
import pytest

from services.chassis.rpc import Server, channel, is_transient
from services.chassis.settings import ServiceSettings
from services.console.commands.status import _lines
from services.contracts import archive_pb2, archive_pb2_grpc
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.port import WriterState
from services.store.service import ArchiveService
from tests.store.simulation import Simulation


async def test_status_reports_an_outage_and_catching_up(finished: Simulation, tmp_path: Path) -> None:
    """The first as a line of `asi-arch status`, the second as something to wait for, also before the writer knows."""
    archive = open_archive(f"sqlite:///{tmp_path}/archive.db")
    await archive.open()
    await archive.apply(finished.log)
    writer, server = WriterState(outage="the disk is full"), Server(ServiceSettings())
    service = ArchiveService(archive, RunLedger(archive), writer)
    archive_pb2_grpc.add_ArchiveServicer_to_server(service, server.grpc)
    await server.start()
    async with channel(f"127.0.0.1:{server.port}", ServiceSettings()) as connection:
        stub = archive_pb2_grpc.ArchiveStub(connection)
        status = await stub.GetRun(archive_pb2.RunRequest(run="r1"))
        writer.behind = True
        with pytest.raises(grpc.aio.AioRpcError, match="catching up with the log") as refused:
            await stub.GetRun(archive_pb2.RunRequest(run="r1"))
        writer.behind, writer.reached = False, len(finished.log) + 1  # of which the archive has lost the last
        with pytest.raises(grpc.aio.AioRpcError, match="has lost events") as lost:
            await stub.GetCandidate(archive_pb2.GetCandidateRequest(run="r1", candidate="c000999"))
    await server.stop(0)
    await archive.close()

    assert ("OUTAGE", "the disk is full") in _lines(status)
    assert is_transient(refused.value)
    assert is_transient(lost.value)
