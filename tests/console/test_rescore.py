"""`asi-arch rescore`, where the version of the fitness needs what was not measured."""

from pathlib import Path

from services.contracts import candidate_pb2 as pb
from tests.archive_server import KnownArchive, served
from tests.console.conftest import System, asi_arch, bare_environment


async def test_a_fitness_that_nothing_can_be_rescored_with_names_what_it_needs(system: System, tmp_path: Path) -> None:
    """No run without a benchmark has the paper's."""
    root = pb.Candidate(run="r1", id="c000001", kind=pb.KIND_BASELINE, stage="mini", state=pb.STATE_ARCHIVED)
    root.request.baseline = "delta_net"
    root.training.loss = 2.5
    async with served(KnownArchive(root)) as address:
        nats = system.environment["ASI_NATS_URL"]
        environment = bare_environment(tmp_path, ASI_NATS_URL=nats, ASI_ARCHIVE_ADDRESS=address)
        done = await asi_arch(environment, "rescore", "--fitness", "paper")

    assert done.status == 1
    assert "can be rescored as paper, which needs a loss, a benchmark and a judge's score" in done.err
