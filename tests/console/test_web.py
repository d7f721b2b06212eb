# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The live page in headless Chromium, over a real gRPC archive of 2,000 candidates."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

from services.chassis.bus import Bus
from services.chassis.events import first
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.console.settings import ConsoleSettings
from services.console.web.server import application
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as candidates
from tests.console.browser import opened

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
async def page(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The page's address."""
    monkeypatch.setenv("ASI_NATS_URL", settings.nats_url)
    console = ConsoleSettings(**settings.model_dump(exclude_none=True))
    server = grpc.aio.server()
    archive_pb2_grpc.add_ArchiveServicer_to_server(Archive(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel(f"127.0.0.1:{port}", ServiceSettings()) as connection:
        runner = web.AppRunner(application(archive_pb2_grpc.ArchiveStub(connection), console))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        await runner.cleanup()
    await server.stop(0)


@pytest.mark.slow
async def test_the_tree_draws_two_thousand_nodes_at_once_and_follows_the_run(page: str) -> None:
    """Every node is there, as a circle; the live status arrived without a reload."""
    async with opened(page) as browser:
        await browser.until("document.querySelector('#tree svg').dataset.drawn")
        circles = await browser.evaluate("document.querySelectorAll('#tree circle').length")
        await browser.until("document.querySelector('#status').textContent.includes('4711 events')")

    assert circles == NODES


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
async def test_a_click_opens_a_candidate_and_its_text_stays_text(page: str, width: int) -> None:
    """A motivation with a script tag is shown, not run; on a phone too."""
    async with opened(page, width) as browser:
        await browser.until("document.querySelector('#tree svg').dataset.drawn")
        await browser.click("#tree circle")
        await browser.until("document.querySelector('#candidate h2')?.textContent === 'Net0'")
        text = await browser.evaluate("document.querySelector('#candidate').innerText")
        scripts = await browser.evaluate("document.querySelectorAll('#candidate script, #candidate img').length")
        wide = await browser.evaluate("document.documentElement.scrollWidth")

        assert HOSTILE in text
        assert scripts == 0
        assert await browser.evaluate("document.title") == "ASI-Arch"
        assert wide <= width


@pytest.mark.slow
async def test_the_page_works_by_keyboard(page: str) -> None:
    """Arrows walk the tree, Enter opens."""
    async with opened(page) as browser:
        await browser.until("document.querySelector('#tree svg').dataset.drawn")
        await browser.evaluate("document.querySelector('#tree circle[tabindex=\"0\"]').focus()")
        await browser.press("ArrowRight", 39)
        await browser.press("Enter", 13)

        assert await browser.until("document.querySelector('#candidate h2')?.textContent") == "Net1"


@pytest.mark.slow
async def test_two_candidates_stand_beside_each_other(page: str) -> None:
    """Asked for by an address that can be sent to somebody."""
    async with opened(f"{page}#c000007..c000009") as browser:
        heading = await browser.until("document.querySelector('#candidate h2')?.textContent")

        assert heading == "Net7 against Net9"
        assert "1.5300" in await browser.evaluate("document.querySelector('#candidate table').innerText")


@pytest.mark.slow
async def test_the_leaderboard_is_sorted_and_filtered(page: str) -> None:
    """A click on a column turns it around."""
    first = "document.querySelector('#board tbody tr td').textContent"
    async with opened(f"{page}?view=board") as browser:
        await browser.until("document.querySelectorAll('#board tbody tr').length")
        await browser.click("#board th:nth-child(6) button")
        worst = await browser.evaluate(first)
        await browser.click("#board th:nth-child(6) button")
        best = await browser.evaluate(first)
        await browser.evaluate("(find => { find.value = 'net19'; find.dispatchEvent(new Event('input')); })($find)"
                               .replace("$find", "document.querySelector('#find')"))  # fmt: skip
        left = await browser.evaluate("document.querySelectorAll('#board tbody tr').length")

    assert RECORDS[int(worst[1:])].training.loss == max(one.training.loss for one in RECORDS)
    assert RECORDS[int(best[1:])].training.loss == min(one.training.loss for one in RECORDS)
    assert left == sum("net19" in one.proposal.name.lower() for one in RECORDS)


@pytest.mark.slow
async def test_the_log_is_shown_as_it_happens(page: str, bus: Bus) -> None:
    """What is in the log already, then what comes; by the log's own connection."""
    earlier, later = (first("r1", "paused", "console", attempt) for attempt in (1, 2))
    earlier.run_paused.reason, later.run_paused.reason = "lunch", HOSTILE
    await bus.publish(earlier)
    async with opened(f"{page}?view=run-view") as browser:
        await browser.until("document.querySelectorAll('#log li').length === 1")
        await bus.publish(later)
        await browser.until("document.querySelectorAll('#log li').length === 2")

        assert HOSTILE in await browser.evaluate("document.querySelector('#log').innerText")
        assert "Nothing is in flight" in await browser.evaluate("document.querySelector('#summary').innerText")


async def test_what_does_not_exist_is_a_sentence_with_a_status(page: str) -> None:
    """And every answer forbids scripts from elsewhere."""
    async with ClientSession() as session:
        async with session.get(f"{page}api/candidate?id=c999999") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"] == "run r1 has no candidate 'c999999'"
        async with session.get(page) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
