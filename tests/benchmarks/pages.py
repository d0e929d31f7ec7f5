"""The pages in Chromium: a run of a million steps opened and zoomed, and the first page of a thousand runs.

    python -m tests.benchmarks.pages

A real server on a store as a compactor leaves it. Opening is timed from the request to the first frame in which every
chart is there; a zoom from the end of a drag over the chart to the frame that shows the new range. What crosses the
wire is printed beside it. Each place is looked at once, so that nothing is answered from what was read before.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from seismograd_server.model import RankIdentity, RunKey
from seismograd_server.store.database import Database
from seismograd_server.store.progress import Progress
from tests.benchmarks.long_run import Reader, prepare
from tests.benchmarks.measure import median, table
from tests.support.closed import noisy, run_of
from tests.support.long_run import KEY, LongRun

FLEET, FLEET_STEPS = 1000, 300
_SHOWN = "document.querySelectorAll('svg.chart').length >= 3"
_IN_SIGHT = "[...document.images].filter(image => image.getBoundingClientRect().top < innerHeight)"
_FRAME = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def add_runs(path: Path, count: int) -> None:
    """Runs of a few hundred steps beside the long one."""
    with Database.open(f"sqlite:///{path}", owner="benchmark") as database, database.begin() as transaction:
        block, now = run_of(noisy(FLEET_STEPS, 0)), time.time()
        for number in range(count):
            key = RunKey("fleet", f"sweep-{number}")
            opened = transaction.runs.open_rank(RankIdentity(key, f"launch-{number}", 0, 1, f"session-{number}"), now)
            run_id = opened.run.run_id
            transaction.steps.append_all([(run_id, opened.launch.launch_row, 0, block)])
            transaction.runs.progress([Progress(run_id, FLEET_STEPS - 1, FLEET_STEPS, now)])


def opened(page: Page, address: str, ready: str) -> float:
    """Milliseconds until a page is there, painted."""
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(ready)
    page.evaluate(_FRAME)
    return 1e3 * (time.perf_counter() - started)


def zoomed(page: Page, left: float, right: float) -> float:
    """Milliseconds from letting go of the button to the new range, painted."""
    box = page.locator("svg.chart").first.bounding_box()
    assert box is not None
    before = page.locator(".ranges b").inner_text()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + left * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + right * box["width"], y)
    started = time.perf_counter()
    page.mouse.up()
    page.wait_for_function("before => document.querySelector('.ranges b').innerText !== before", arg=before)
    page.evaluate(_FRAME)
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seismograd-pages-") as directory, sync_playwright() as playwright:
        folder = Path(directory) / "data"
        folder.mkdir()
        long = LongRun(options.steps, options.layers, 2, spikes=(options.steps // 3,))
        prepare(folder / "seismograd.db", long)
        add_runs(folder / "seismograd.db", FLEET - 1)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        reader = Reader(folder, long)
        try:
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            sizes: list[int] = []
            page.on("response", lambda response: sizes.append(int(response.headers.get("content-length", 0))))
            run, fleet = f"{reader.home}/runs/{KEY.project}/{KEY.run}", f"{reader.home}/"
            rows_there = "document.querySelectorAll('tbody tr').length >= 100"
            all_there = f"() => {rows_there} && {_IN_SIGHT}.every(image => image.complete && image.naturalWidth)"
            times: dict[str, list[float]] = {"opens": [], "zooms": [], "fleet": [], "pictures": []}
            generator = np.random.default_rng(0)
            for _ in range(options.rounds):
                sizes.clear()
                times["opens"].append(opened(page, run, _SHOWN))
                page.wait_for_load_state("networkidle")
                weight = sum(sizes)
                for _ in range(4):  # from a million steps to a few hundred
                    left = generator.uniform(0.1, 0.7)
                    times["zooms"].append(zoomed(page, left, left + 0.15))
                times["fleet"].append(opened(page, fleet, rows_there))
                times["pictures"].append(opened(page, fleet, all_there))
            browser.close()
        finally:
            reader.close()
    opens, zooms, pictures = times["opens"], times["zooms"], times["pictures"]
    rows = [
        ["a run opens", f"{median(opens):.0f} ms (the first {opens[0]:.0f})", f"{weight / 1024:.0f} KiB"],
        ["a zoom", f"{median(zooms):.0f} ms (the slowest {max(zooms):.0f})", ""],
        [f"the first page, {FLEET:,} runs", f"{median(times['fleet']):.0f} ms", ""],
        ["and every picture in sight", f"{median(pictures):.0f} ms (the first {pictures[0]:.0f})", ""],
    ]
    table(f"{long.steps:,} steps x {long.layers} layers, in Chromium", ["", "median", "weight"], rows)


if __name__ == "__main__":
    main()
