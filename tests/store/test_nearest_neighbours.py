"""The nearest motivations and programs of a draft, asked in one call over real gRPC."""

from pathlib import Path

from services.archive.scoring import program_of
from services.contracts import archive_pb2 as pb
from services.contracts import events_pb2
from services.domain.structure import fingerprint
from services.researcher.prompt_text import neighbours_text
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.service import ArchiveService
from tests.archive_server import archive_client
from tests.store.simulation import EMBEDDER, Simulation, embedding, program


async def test_a_draft_is_placed_among_motivations_and_programs_at_once(tmp_path: Path) -> None:
    """As two questions would; a text that is no Python has no structure and no neighbours."""
    archive = open_archive(f"sqlite:///{tmp_path}/archive.db")
    await archive.open()
    simulation = Simulation()
    simulation.start(budget=events_pb2.Budget(candidates=6))
    simulation.finish()
    await archive.apply(simulation.log)
    request = pb.NeighboursRequest(run="r1", embedding=embedding(2), embedder=EMBEDDER, program=program(3), count=3)
    async with archive_client(ArchiveService(archive, RunLedger(archive))) as stub:
        both = await stub.GetNeighbours(request)
        motivations = await stub.NearestMotivations(
            pb.NearestMotivationsRequest(run="r1", embedding=embedding(2), embedder=EMBEDDER, count=3)
        )
        programs = await stub.NearestPrograms(pb.NearestProgramsRequest(run="r1", program=program(3), count=3))
        request.program = "def ("
        unreadable = await stub.GetNeighbours(request)
    await archive.close()

    assert (len(both.motivations), len(both.programs)) == (3, 3)
    for asked, near in ((both.motivations, motivations.near), (both.programs, programs.near)):
        assert [(one.candidate.id, one.similarity, one.same_structure) for one in asked] == [
            (one.candidate.id, one.similarity, one.same_structure) for one in near
        ]
        for compared, whole in zip(asked, near, strict=True):
            record = whole.candidate
            assert neighbours_text([compared.candidate]) == neighbours_text([record])
            assert program_of(compared.candidate) == program_of(record)
            assert compared.candidate.ByteSize() < record.ByteSize()
    assert both.structure == fingerprint(program(3)).digest
    assert unreadable == pb.NeighboursReply()
