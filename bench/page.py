"""Speed of the page with 1,772 candidates, and its screenshots for the documentation.

    python -m bench.page                            speeds, as one JSON object
    python -m bench.page --screenshots docs/images  also pictures at three sizes, and figures of the report

Imports a generated archive in the published format (see `bench.published_archive`) into a temporary folder, serves it
and controls Chromium. Needs the extra `dev`, and chromium on the PATH.
"""

import argparse
import asyncio
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

from bench import published_archive

SIZES = {"1280": (1280, 800), "1920": (1920, 1080), "phone": (390, 844)}
VIEWS = {
    "overview": "", "tree": "view=tree&candidate={best}", "leaderboard": "view=leaderboard&ticked={best},{second}",
    "explore": "view=explore&x=train_loss", "playback": "view=tree&layout=tidy&at=900",
}  # fmt: skip
FIGURES = ("score-trend", "figure-5-radial", "curves")
REPEATS = 5
SETTLE_MILLISECONDS = 1200


ZOOM = """async () => {
  const canvas = document.querySelector('.stage canvas'), gaps = [];
  let last = performance.now();
  for (let n = 0; n < 40; n++) {
    const wheel = {deltaY: n < 20 ? -60 : 60, clientX: 500, clientY: 400, bubbles: true};
    canvas.dispatchEvent(new WheelEvent('wheel', wheel));
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }
  return gaps.sort((a, b) => a - b)[20];
}"""
CLICK = """async () => {
  const begun = performance.now();
  document.querySelectorAll('.rows tbody a')[2].click();
  while (!document.querySelector('.candidate .part')) await new Promise((done) => setTimeout(done, 2));
  return performance.now() - begun;
}"""
TYPE = """async () => {
  const box = document.querySelector('.filter input'), begun = performance.now();
  for (const text of ['r', 'ro', 'rou', 'rout', 'route', 'router']) {
    box.value = text;
    box.dispatchEvent(new Event('input', {bubbles: true}));
    await new Promise(requestAnimationFrame);
  }
  return (performance.now() - begun) / 6;
}"""


async def measure(address: str, folder: Path | None) -> dict[str, object]:
    """Median milliseconds of the page's responses; also takes the screenshots if `folder` is given."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        timings: dict[str, list[float]] = {}
        for _ in range(REPEATS):
            for name, milliseconds in (await _timings(page, address)).items():
                timings.setdefault(name, []).append(milliseconds)
        if folder is not None:
            await _screenshots(browser, address, folder)
        await browser.close()
    return {name: round(statistics.median(values), 1) for name, values in timings.items()}


async def _timings(page: Page, address: str) -> dict[str, float]:
    timings: dict[str, float] = {}
    await page.goto(address)
    await page.wait_for_selector(".plot canvas")
    timings["first view"] = await page.evaluate("performance.now()")
    await page.goto(f"{address}?view=tree")
    await page.wait_for_selector(".stage canvas[data-drawn='1772']")
    timings["tree"] = await page.evaluate("performance.now()")
    drawing = await page.locator(".stage canvas").first.get_attribute("data-milliseconds")
    timings["drawing of the tree"] = float(drawing or 0)
    timings["frame while zooming"] = await page.evaluate(ZOOM)
    await page.goto(f"{address}?view=leaderboard")
    await page.wait_for_selector(".rows tbody a")
    timings["leaderboard"] = await page.evaluate("performance.now()")
    await page.click(".rows tbody a >> nth=4")
    await page.wait_for_selector(".candidate .part")
    await page.click(".candidate button[aria-label='Close the candidate']")
    timings["click on a candidate"] = await page.evaluate(CLICK)
    timings["one letter into the filter"] = await page.evaluate(TYPE)
    return timings


async def _screenshots(browser: Browser, address: str, folder: Path) -> None:
    for size, (width, height) in SIZES.items():
        page = await browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if size == "1920" else "light"
        )
        rows: list[dict[str, Any]] = (await (await page.request.get(f"{address}api/table")).json())["rows"]
        known = {row["id"] for row in rows if row.get("train_loss") is not None}  # these also have programs
        ranked = sorted(rows, key=lambda row: -row["fitness"])
        best, second = [row["id"] for row in ranked if row["id"] in known and row.get("parent") in known][:2]
        for view, query in VIEWS.items():
            if size == "phone" and view == "playback":
                continue
            parameters = query.format(best=best, second=second)
            if size == "phone":
                parameters = parameters.replace(f"&candidate={best}", "")
            await page.goto(f"{address}?{parameters}")
            await page.wait_for_timeout(SETTLE_MILLISECONDS)
            _save(await page.screenshot(), folder / f"page-{view}-{size}.png")
        await page.goto(f"{address}?view=leaderboard&candidate={best}&wide=1")
        await page.wait_for_selector(".candidate .plot canvas")
        _save(await page.screenshot(), folder / f"page-candidate-{size}.png")
        await page.close()


def _save(picture: bytes, path: Path) -> None:
    """With a palette, which reduces the size to a third; chosen by coverage, to preserve rare colours, then refined."""
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(
        255, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE
    ).save(path, optimize=True)


def main() -> None:
    """Import, serve, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screenshots", type=Path, help="folder for the pictures")
    folder: Path | None = parser.parse_args().screenshots
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**os.environ, "ASI_DATA_DIR": f"{temporary}/data"}
        command = [sys.executable, "-m", "services.console"]
        published_archive.write(Path(temporary) / "published")
        importing = [*command, "import", "asi-arch", f"{temporary}/published"]
        subprocess.run(importing, env=environment, check=True, stdout=sys.stderr)
        if folder is not None:
            report = Path(temporary) / "report"
            subprocess.run([*command, "report", "--out", str(report)], env=environment, check=True, stdout=sys.stderr)
            folder.mkdir(parents=True, exist_ok=True)
            for name in FIGURES:
                _save((report / f"{name}.png").read_bytes(), folder / f"report-{name}.png")
        server = subprocess.Popen([*command, "web", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            print(json.dumps(asyncio.run(measure(address, folder)), indent=2))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
