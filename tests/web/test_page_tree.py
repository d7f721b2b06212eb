"""The tree of the live page in headless Chromium: two thousand nodes, the keyboard, the playback."""

import pytest
from playwright.async_api import Page, expect

from tests.web.browser import opened
from tests.web.changing_archive import NODES, record
from tests.web.conftest import Site, drawn


async def place_of(page: Page, candidate: str) -> tuple[float, float]:
    """Where the tree draws a candidate, in the page's pixels."""
    x, y = await page.evaluate("id => window.asiTree.at(id)", candidate)
    box = await page.locator(".stage canvas").first.bounding_box()
    assert box is not None
    return box["x"] + x, box["y"] + y


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["radial", "tidy"])
async def test_the_tree_draws_two_thousand_nodes_with_names_and_fits(site: Site, layout: str) -> None:
    """All of them lie inside the window, the best are named, edges are pale until few are in the window, and a
    candidate that comes later is drawn too."""
    async with opened(f"{site.address}?view=tree&layout={layout}") as page:
        await drawn(page)
        canvas = page.locator(".stage canvas").first
        outside = await page.evaluate(
            """() => { const box = document.querySelector('.stage').getBoundingClientRect();
            return Array.from({length: 2000}, (_, n) => window.asiTree.at('c' + String(n).padStart(6, '0')))
              .filter(([x, y]) => x < 0 || y < 0 || x > box.width || y > box.height).length; }"""
        )
        assert outside == 0
        assert 10 <= int(await canvas.get_attribute("data-labels") or 0) <= 30
        pale = float(await canvas.get_attribute("data-opacity") or 0)
        for _ in range(4):
            await page.get_by_role("button", name="Zoom in").click()
        await expect(canvas).to_have_attribute("data-opacity", "0.75")
        assert pale < 0.7
        await site.archive.add(record(NODES))
        await drawn(page, NODES + 1)


@pytest.mark.slow
async def test_a_click_opens_what_lies_under_it_and_the_tree_keeps_it_in_sight(site: Site) -> None:
    """Zoomed in, choosing something far away moves the window there; the path to the root is in the panel."""
    async with opened(f"{site.address}?view=tree") as page:
        await drawn(page)
        await page.mouse.click(*await place_of(page, "c000004"))
        await expect(page.locator(".candidate h2")).to_have_text("Net4")
        await expect(page.locator(".candidate .path")).to_contain_text("Net0 → Net1 → Net4")
        canvas = page.locator(".stage canvas").first
        await canvas.focus()
        for _ in range(8):
            await page.keyboard.press("+")
        await page.locator(".path a").first.click()
        await expect(page.locator(".candidate h2")).to_have_text("Net0")
        await page.wait_for_function(
            """() => { const box = document.querySelector('.stage').getBoundingClientRect();
            const [x, y] = window.asiTree.at('c000000'); return x > 0 && y > 0 && x < box.width && y < box.height; }"""
        )


@pytest.mark.slow
async def test_the_tree_is_walked_folded_and_opened_from_the_keyboard(site: Site) -> None:
    """What a node is is said to a screen reader; folding takes its descendants away."""
    async with opened(f"{site.address}?view=tree") as page:
        await drawn(page)
        await page.locator(".stage canvas").first.focus()
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowRight")
        await expect(page.locator(".stage [role=status]")).to_contain_text("Net1, c000001")
        await page.keyboard.press("Space")
        await expect(page.get_by_role("button", name="Unfold all")).to_be_visible()
        canvas = page.locator(".stage canvas").first
        await expect(canvas).not_to_have_attribute("data-drawn", str(NODES))  # drawn anew after the button is there
        folded = int(await canvas.get_attribute("data-drawn") or 0)
        await page.keyboard.press("Enter")

        await expect(page.locator(".candidate h2")).to_have_text("Net1")
        assert 0 < folded < NODES


@pytest.mark.slow
async def test_playback_grows_the_tree_with_the_best_so_far(site: Site) -> None:
    """The slider's place is in the address; at its start one node stands, at its end all."""
    async with opened(f"{site.address}?view=tree&at=0") as page:
        slider = page.get_by_role("slider", name="Place in the event log")
        await expect(slider).to_have_attribute("aria-valuetext", f"candidate 1 of {NODES}")
        await slider.focus()
        await page.keyboard.press("End")
        await expect(slider).to_have_attribute("aria-valuetext", f"candidate {NODES} of {NODES}")
        await expect(page.get_by_role("img", name="Best fitness so far")).to_be_visible()
        assert f"at={NODES - 1}" in page.url
