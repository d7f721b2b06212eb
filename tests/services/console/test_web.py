# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The live page in headless Chromium, over a real gRPC archive of 2,000 candidates."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.console.web.server import application
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as candidates

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODES = 2000
HOSTILE = '<script>document.title="taken"</script><img src=x onerror=alert(1)>'


def record(number: int) -> candidates.Candidate:
    one = candidates.Candidate(
        id=f"c{number:06d}", run="r1", kind=candidates.KIND_PROPOSAL, state=candidates.STATE_ARCHIVED, stage="tiny"
    )
    parent = f"c{number // 3:06d}" if number else ""
    one.proposal.CopyFrom(
        candidates.Proposal(name=f"Net{number}", motivation=HOSTILE, program="x = 1\n", parent=parent)
    )
    one.training.loss = 1.5 + (number % 97) / 300
    one.verdict.fitness.CopyFrom(candidates.Fitness(version="paper", value=(number % 89) / 89))
    return one


RECORDS = [record(number) for number in range(NODES)]


class Archive(archive_pb2_grpc.ArchiveServicer):
    """Two thousand candidates; a change is told twice."""

    async def ListRuns(self, request: object, context: object) -> pb.ListRunsReply:
        return pb.ListRunsReply(runs=[pb.RunStatus(run="r1", phase="searching")])

    async def GetRun(self, request: object, context: object) -> pb.RunStatus:
        return pb.RunStatus(run="r1", phase="searching", sequence=1)

    async def GetTree(self, request: object, context: object) -> pb.TreeReply:
        return pb.TreeReply(nodes=[
            pb.TreeNode(id=one.id, parent=one.proposal.parent, name=one.proposal.name, state=one.state,
                        fitness=one.verdict.fitness.value, loss=one.training.loss)
            for one in RECORDS
        ])  # fmt: skip

    async def ListCandidates(self, request: pb.ListCandidatesRequest, context: object) -> pb.ListCandidatesReply:
        start = int(request.page_token or 0)
        end = start + request.page_size
        more = str(end) if end < NODES else ""
        return pb.ListCandidatesReply(candidates=RECORDS[start:end], next_page_token=more, total=NODES)

    async def GetCandidate(
        self, request: pb.GetCandidateRequest, context: grpc.aio.ServicerContext
    ) -> candidates.Candidate:
        found = [one for one in RECORDS if one.id == request.candidate]
        if not found:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"run r1 has no candidate {request.candidate!r}")
        return found[0]

    async def GetRelatives(self, request: object, context: object) -> pb.RelativesReply:
        return pb.RelativesReply(parent=RECORDS[0], path=["c000000"])

    async def GetChain(self, request: object, context: object) -> pb.ChainReply:
        return pb.ChainReply()

    async def GetBaselines(self, request: object, context: object) -> pb.GetBaselinesReply:
        return pb.GetBaselinesReply(baselines=RECORDS[:1])

    async def WatchRun(self, request: object, context: object) -> AsyncIterator[pb.RunStatus]:
        yield pb.RunStatus(run="r1", phase="searching", sequence=1)
        await asyncio.sleep(0.3)
        yield pb.RunStatus(run="r1", phase="searching", sequence=4711)


@pytest_asyncio.fixture
async def page() -> AsyncIterator[str]:
    """The page's address."""
    server = grpc.aio.server()
    archive_pb2_grpc.add_ArchiveServicer_to_server(Archive(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel(f"127.0.0.1:{port}", ServiceSettings()) as connection:
        runner = web.AppRunner(application(archive_pb2_grpc.ArchiveStub(connection)))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        await runner.cleanup()
    await server.stop(0)


async def document(address: str, width: int = 1280) -> str:
    """The page's document as Chromium has it after a few seconds."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},800", "--dump-dom",
        "--virtual-time-budget=5000", address, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return output.decode()


@pytest.mark.slow
async def test_the_tree_draws_two_thousand_nodes_at_once_and_follows_the_run(page: str) -> None:
    """Every node is there in under two seconds of drawing, and the live status arrived."""
    found = await document(page)
    drawn = re.search(r'data-drawn="(\d+)" data-milliseconds="(\d+)"', found)

    assert drawn is not None
    assert int(drawn[1]) == NODES
    assert "4711 events" in found


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
async def test_a_candidate_opens_and_its_text_stays_text(page: str, width: int) -> None:
    """A motivation with a script tag is shown, not run; on a phone too."""
    found = await document(f"{page}#c000007", width)

    assert "<h2>Net7</h2>" in found
    assert "&lt;script&gt;document.title" in found
    assert "<title>ASI-Arch</title>" in found


async def test_what_does_not_exist_is_a_sentence_with_a_status(page: str) -> None:
    """And every answer forbids scripts from elsewhere."""
    async with ClientSession() as session:
        async with session.get(f"{page}api/candidate?id=c999999") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"] == "run r1 has no candidate 'c999999'"
        async with session.get(page) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
