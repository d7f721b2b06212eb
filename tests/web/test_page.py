"""The live page in headless Chromium, over a real gRPC archive of 2,000 candidates that changes while it is watched."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession
from playwright.async_api import expect

from services.chassis.bus import Bus
from services.chassis.events import first
from services.contracts import candidate_pb2 as candidates
from services.contracts.progress_pb2 import Progress
from tests.web.browser import accessibility_findings, opened
from tests.web.changing_archive import HOSTILE, NODES, record
from tests.web.conftest import Site, drawn


@asynccontextmanager
async def announced(bus: Bus, *progress: Progress) -> AsyncIterator[None]:
    """Say it again and again, as services do."""

    async def repeat() -> None:
        while True:
            for announcement in progress:
                await bus.announce(announcement)
            await asyncio.sleep(0.2)

    task = asyncio.create_task(repeat())
    yield
    task.cancel()


@pytest.mark.slow
async def test_the_overview_shows_the_state_and_follows_the_run(site: Site) -> None:
    """The budget, the best and the trend; a new candidate appears without a reload, in its name and in the count."""
    async with opened(site.address) as page:
        await expect(page.get_by_label("State", exact=True)).to_contain_text("1999 of 4000")
        await expect(page.get_by_role("img", name="best so far")).to_be_visible()
        await expect(page.get_by_role("img", name="Mean fitness")).to_be_visible()
        newcomer = record(NODES)
        newcomer.verdict.fitness.value = 0.999
        await site.archive.add(newcomer)

        await expect(page.get_by_label("State", exact=True)).to_contain_text(f"Net{NODES}")
        await expect(page.get_by_label("State", exact=True)).to_contain_text("2,001")


@pytest.mark.slow
async def test_announced_progress_is_drawn_while_it_lasts(site: Site, bus: Bus) -> None:
    """Steps of a training with its curve, and whom a candidate waits for."""
    training, waiting = record(7), record(8)
    training.state, waiting.state = candidates.STATE_TRAINING, candidates.STATE_TRAINED
    await site.archive.add(training, waiting)
    announcement = Progress(run="r1", candidate="c000007", service="engineer", attempt=1)
    step = announcement.trainings.add(seed=1, step=40, steps=586, loss=2.5, tokens_per_second=9000, seconds_left=300)
    judge = Progress(run="r1", candidate="c000008", service="judge", waits_for="the model", attempt=2)
    judge.since.FromNanoseconds(time.time_ns() - 45 * 10**9)
    async with opened(site.address) as page, announced(bus, announcement, judge):
        training_now = page.get_by_label("In training", exact=True)
        await expect(training_now).to_contain_text("step 40 of 586 · loss 2.500 · 9.00k tokens/s")
        await expect(page.get_by_label("Queue and workers")).to_contain_text(
            re.compile(r"judge waits for the model, \d+:\d\d, attempt 2")
        )
        step.step, step.loss = 80, 2.25

        await expect(page.get_by_role("img", name="Training loss of c000007, now 2.250")).to_be_visible()
        step.step = 586
        await expect(training_now).not_to_contain_text("step 80")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
async def test_untrusted_text_is_not_rendered_as_markup(site: Site, width: int) -> None:
    """Markdown is laid out; its HTML, pictures and script links are not. A phone scrolls down only, also past names
    and texts of 10,000 letters without a space."""
    child, parent = record(7), record(2)
    child.proposal.name = child.proposal.motivation = parent.proposal.name = "W" * 10_000
    child.verdict.justification = child.analysis.results = "W" * 10_000
    await site.archive.add(child, parent)
    async with opened(f"{site.address}?view=tree&candidate=c000007", width) as page:
        await expect(page.locator(".candidate").get_by_text("Motivation")).to_be_visible()
        beyond = await page.locator(".candidate").evaluate("panel => panel.scrollWidth - panel.clientWidth")
    assert beyond == 0

    await site.archive.add(record(7), record(2))
    async with opened(f"{site.address}?view=tree&candidate=c000007", width) as page:
        panel = page.locator(".candidate")
        await expect(panel.get_by_text("Motivation")).to_be_visible()
        strong = await panel.locator(".prose strong").first.inner_text()
        text = await panel.inner_text()
        foreign = await panel.locator("script, img, iframe, a[href^=javascript]").count()
        wide = await page.evaluate("document.documentElement.scrollWidth")
        title = await page.title()

    assert strong == "Bold"
    assert HOSTILE in text
    assert (foreign, wide) == (0, width)
    assert "taken" not in title


@pytest.mark.slow
async def test_a_candidate_shows_first_what_changed_and_everything_behind_it(site: Site) -> None:
    """Components added and removed, the difference of the programs, measures with intervals, chain."""
    async with opened(f"{site.address}?view=tree&candidate=c000007&wide=1") as page:
        panel = page.locator(".candidate")
        await expect(panel.locator(".part h3").first).to_have_text("What changed against Net2")
        await expect(panel.locator(".components .added")).to_have_text("+ output-gate")
        await expect(panel.locator(".components .removed")).to_have_text("− forget-gate")
        await expect(panel.locator(".diff td.added").first).to_contain_text("num_heads_7")
        await expect(panel.locator(".diff .fold").first).to_be_visible()
        await expect(panel.locator(".gains")).to_contain_text("worse with this seed")
        parts = panel.get_by_role("region", name="Loss by position and kind of token")
        await expect(parts.locator("tbody")).to_have_text("tokens 1-166 %2.5232.507")
        await expect(panel).to_contain_text("gate the write")
        await panel.get_by_text("Chain of events").click()

        await expect(panel).to_contain_text("r1.c000007.proposed.1")


@pytest.mark.slow
async def test_two_candidates_are_shown_side_by_side(site: Site) -> None:
    """Asked for by an address that can be sent to somebody."""
    async with opened(f"{site.address}?candidate=c000007..c000009") as page:
        await expect(page.locator(".candidate h2")).to_have_text("Net7 against Net9")
        await expect(page.locator(".candidate table").first).to_contain_text("1.5300")


@pytest.mark.slow
async def test_the_leaderboard_is_sorted_filtered_and_draws_only_rows_in_sight(site: Site) -> None:
    """A typed filter leaves what passes; a part of it that means nothing is said."""
    losses = {candidate.training.loss for candidate in site.archive.records.values()}
    async with opened(f"{site.address}?view=leaderboard") as page:
        rows = page.locator(".rows tbody tr:not(.space)")
        await expect(rows.first).to_be_visible()
        assert await rows.count() < 100
        await page.get_by_role("button", name="held-out loss").click()
        await expect(rows.first).to_contain_text(f"{min(losses):.4f}")
        await page.get_by_role("button", name="held-out loss").click()
        await expect(rows.first).to_contain_text(f"{max(losses):.4f}")
        await page.get_by_label("Filter candidates").fill("loss<1.52 component:output-gate net19")
        passing = [
            candidate for number, candidate in enumerate(site.archive.records.values())
            if candidate.training.loss < 1.52 and number % 2 and "net19" in candidate.proposal.name.lower()
        ]  # fmt: skip
        await expect(page.locator("#filter-note")).to_have_text(f"{len(passing)} of {NODES}")
        assert "component%3Aoutput-gate" in page.url
        await page.get_by_label("Filter candidates").fill("componnt:x")
        await expect(page.locator("#filter-note")).to_contain_text("componnt: is not known; fields are component")


@pytest.mark.slow
async def test_curves_of_ticked_rows_lie_over_one_another(site: Site) -> None:
    """And the address says which."""
    async with opened(f"{site.address}?view=leaderboard") as page:
        await page.get_by_label("Show the curve of").nth(0).check()
        await page.get_by_label("Show the curve of").nth(1).check()
        await expect(page.get_by_label("Training curves of the ticked candidates").get_by_role("img")).to_be_visible()
        await page.get_by_role("button", name="Compare the two").click()
        await expect(page.locator(".candidate h2")).to_contain_text("against")
        assert page.url.count("c000") == 4


@pytest.mark.slow
async def test_explore_brushes_a_table_and_shows_effects(site: Site) -> None:
    """Two measures with those that no other beats; a drag chooses; components have intervals."""
    async with opened(f"{site.address}?view=explore", height=1400) as page:
        scatter = page.get_by_role("img", name="fitness against parameters")
        await expect(scatter).to_be_visible()
        await expect(page.get_by_label("Effects of components")).to_contain_text("output-gate")
        box = await scatter.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.4)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.6, steps=5)
        await page.mouse.up()

        await expect(page.get_by_label("The choice")).to_contain_text("chosen")


@pytest.mark.slow
async def test_the_back_button_goes_from_step_to_step(site: Site) -> None:
    """Views and candidates are in the address."""
    async with opened(site.address) as page:
        await page.get_by_role("button", name="Leaderboard").click()
        await page.locator(".rows tbody a").first.click()
        await expect(page.locator(".candidate h2")).to_be_visible()
        await page.go_back()
        await expect(page.locator(".candidate")).to_have_count(0)
        await page.go_back()
        await expect(page.get_by_label("State", exact=True)).to_be_visible()


@pytest.mark.slow
async def test_a_page_stays_open_while_the_system_restarts(site: Site) -> None:
    """While the archive is away there is a sentence, and what was known stays; when it answers again, all goes on."""
    async with opened(site.address) as page:
        await expect(page.get_by_label("State", exact=True)).to_contain_text("searching")
        await site.archive_server.aclose()
        await expect(page.locator(".banner")).to_contain_text("archive does not answer")
        await page.get_by_role("button", name="Leaderboard").click()
        await expect(page.locator(".rows tbody a").first).to_be_visible()
        site.archive.finish()
        await site.start_archive()

        await expect(page.locator(".banner")).to_be_hidden()
        await expect(page.locator(".run select option")).to_have_text(["r2 · finished", "r1 · finished"])


@pytest.mark.slow
async def test_an_address_of_an_unknown_run_leaves_the_choice_of_another(site: Site) -> None:
    """As of a bookmark from another data folder: its list of runs was empty."""
    async with opened(f"{site.address}?run=r9&view=leaderboard") as page:
        await expect(page.locator(".banner")).to_have_text("no run is called r9. Trying again.")
        await page.locator(".run select").select_option("r1")

        await expect(page.locator(".rows tbody a").first).to_be_visible()
        await expect(page.locator(".banner")).to_be_hidden()


@pytest.mark.slow
async def test_an_empty_leaderboard_says_why(site: Site) -> None:
    """On a phone as well."""
    for width in (400, 1280):
        async with opened(f"{site.address}?view=leaderboard&filter=loss<-9", width) as page:
            await expect(page.locator(".rows .empty")).to_have_text("No candidate passes the filter.")


@pytest.mark.slow
async def test_the_log_is_shown_as_it_happens(site: Site, bus: Bus) -> None:
    """What is in the log already, then what comes."""
    earlier, later = (first("r1", "paused", "console", attempt) for attempt in (1, 2))
    earlier.run_paused.reason, later.run_paused.reason = "lunch", HOSTILE
    await bus.publish(earlier)
    async with opened(site.address) as page:
        events = page.get_by_label("Events, newest first").locator("li")
        await expect(events).to_have_count(1)
        await bus.publish(later)
        await expect(events).to_have_count(2)
        await expect(events.first).to_contain_text(HOSTILE)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
async def test_axe_finds_nothing(site: Site, dark: bool) -> None:
    """Names, roles, contrast, order of headings: in light and dark, in each view and of a candidate."""
    views = {
        "view=overview": ".plot canvas", "view=tree": ".stage canvas[data-drawn]", "view=leaderboard": ".rows tbody a",
        "view=explore": ".plot svg", "view=tree&candidate=c000007": ".candidate .plot canvas",
    }  # fmt: skip
    findings = {}
    async with opened("about:blank", dark=dark) as page:
        for query, drawn_last in views.items():
            await page.goto(f"{site.address}?{query}")
            await expect(page.locator(drawn_last).first).to_be_visible()
            findings[query] = await accessibility_findings(page)

    assert findings == {query: [] for query in views}


@pytest.mark.slow
async def test_a_phone_has_cards_and_pinches(site: Site) -> None:
    """No column is cut off, and two fingers zoom the tree."""
    async with opened(f"{site.address}?view=leaderboard", 390, 844, touch=True) as page:
        await expect(page.locator(".cards li").first).to_contain_text("held-out loss")
        await page.get_by_role("button", name="Tree").click()
        await drawn(page)
        canvas = page.locator(".stage canvas").first
        before = float(await canvas.get_attribute("data-scale") or 0)
        session = await page.context.new_cdp_session(page)
        for kind, far in (("touchStart", 20), ("touchMove", 60), ("touchMove", 120), ("touchEnd", 0)):
            points = [{"x": 195 - far, "y": 500, "id": 0}, {"x": 195 + far, "y": 500, "id": 1}] if far else []
            await session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        await page.wait_for_function(
            "before => Number(document.querySelector('.stage canvas').dataset.scale) > 2 * before", arg=before
        )


async def test_a_missing_resource_returns_a_status_and_a_message(site: Site) -> None:
    """And every answer forbids scripts from elsewhere."""
    async with ClientSession() as session:
        async with session.get(f"{site.address}api/candidate?id=c999999") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"] == "run r1 has no candidate 'c999999'"
        async with session.get(f"{site.address}api/table?run=r%E2%80%AE9") as answer:  # turns the text after it
            assert (await answer.json())["error"] == "no run is called r\N{REPLACEMENT CHARACTER}9"
        async with session.get(f"{site.address}api/table?run=r9") as answer:
            assert (answer.status, (await answer.json())["error"]) == (404, "no run is called r9")
        async with session.get(f"{site.address}api/call?id=c000001&call=3") as answer:
            assert answer.status == 404
        async with session.get(f"{site.address}events?version=%C2%B2") as answer:  # a digit, but no number
            assert answer.status == 200
        async with session.get(site.address) as answer:
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
