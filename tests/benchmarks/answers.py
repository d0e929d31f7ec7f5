"""What a browser waits for at the server: the fleet page with a thousand runs, and pages of a run of a million steps.

The fleet is written through the pipeline, 64 steps a run; every twentieth run explodes, every second one has ended. The
long run is that of `reading`, with a spike near its end and an alert on it. Every page is fetched from a real server,
at a range somewhere else each time. Medians; beside them what the server's processor took, which is what is left of
them on a quiet machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from seismograd_server.model import Transition
from seismograd_server.store.database import Database
from tests.benchmarks.long_run import summarise
from tests.benchmarks.measure import median, table
from tests.benchmarks.serving import ServerProcess
from tests.support.histories import make_alert
from tests.support.long_run import KEY, LongRun, write
from tests.support.synthetic import SyntheticRun, exploding_losses, exploding_norms, healthy_norms, new_pipeline

STEPS_OF_A_RUN, ONSET, EXPLODES_EVERY = 64, 40, 20
FETCHES = 11
ZOOMS = (100_000, 10_000, 1_000, 100)
_PAGE = f"/runs/{KEY.project}/{KEY.run}"
_API = f"/api/v1{_PAGE}"
# Prime, so that no two ranges of a benchmark begin alike.
_STRIDE = 7_919


def write_fleet(path: Path, runs: int) -> None:
    """Writes the fleet, judged."""
    now = time.time()
    with Database.open(f"sqlite:///{path}", owner="benchmark") as database:
        pipeline = new_pipeline(database, now)
        for number in range(runs):
            run = SyntheticRun(pipeline, name=f"run-{number:04}", world_size=1, launch=f"launch-{number}")
            run.norms = healthy_norms(STEPS_OF_A_RUN, seed=number)
            if number % EXPLODES_EVERY == 0:
                run.norms = exploding_norms(STEPS_OF_A_RUN, ONSET, growth=2.0)
                run.losses = exploding_losses(STEPS_OF_A_RUN, ONSET)
            run.open(now).send(0, STEPS_OF_A_RUN, now)
            pipeline.detect(now)
            if number % 2:
                run.close(now)
        pipeline.stop(now)


def write_long(path: Path, long: LongRun) -> None:
    """Writes and summarises the long run, and an alert on its last spike."""
    since, now = long.spikes[-1], time.time()
    with Database.open(f"sqlite:///{path}", owner="benchmark") as database:
        write(database, long, now - long.steps)
        alert = make_alert(key=KEY, since_step=since, opened_step=since + 3, last_step=since + 40, opened_at=now)
        with database.begin() as transaction:
            transaction.alerts.apply([Transition(alert, None, "raised", now, notify=False)])
        summarise(database)


class Browser:
    """Fetches from a server, and looks how long that takes it."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", timeout=120, trust_env=False)
        self.rows: list[list[str]] = []

    def fetch(self, label: str, address: Callable[[int], str]) -> None:
        """Fetches `address(turn)` for some turns, and notes the medians."""
        size = len(self._got(address(0)))  # whatever is loaded once
        walls, cpus = [], []
        for turn in range(1, FETCHES + 1):
            cpu, began = self._server.cpu_seconds(), time.perf_counter()
            self._got(address(turn))
            walls.append(time.perf_counter() - began)
            cpus.append(self._server.cpu_seconds() - cpu)
        self.rows.append(
            [label, f"{1e3 * median(walls):.0f} ms", f"{1e3 * median(cpus):.0f} ms", f"{size / 2**10:.0f} KiB"]
        )

    def _got(self, address: str) -> bytes:
        answer = self._http.get(address)
        answer.raise_for_status()
        return answer.content

    def close(self) -> None:
        """Hangs up."""
        self._http.close()


def fetch_fleet(browser: Browser) -> None:
    """The pages of the fleet."""
    browser.fetch("fleet page", lambda _: "/")
    browser.fetch("fleet page, searched", lambda turn: f"/?search=run-0{turn % 10}")
    browser.fetch("runs as JSON", lambda _: "/api/v1/runs?limit=1000")
    browser.fetch("page of one run", lambda turn: f"/runs/mt/run-{turn:04}")


def fetch_long(browser: Browser, long: LongRun) -> None:
    """The pages of the long run."""

    def ranged(path: str, width: int) -> Callable[[int], str]:
        def address(turn: int) -> str:
            first = turn * _STRIDE * 37 % max(1, long.steps - width)
            return f"{path}first_step={first}&last_step={first + width - 1}"

        return address

    browser.fetch("run page", lambda _: _PAGE)
    browser.fetch("run page, the latest 1,000 steps", lambda _: f"{_PAGE}?latest=1000")
    for width in ZOOMS:
        browser.fetch(f"run page, {width:,} steps", ranged(f"{_PAGE}?", width))
    browser.fetch("/series", lambda _: f"{_API}/series")
    for width in ZOOMS:
        browser.fetch(f"/series, {width:,} steps", ranged(f"{_API}/series?", width))
    browser.fetch("/layers of all steps", lambda _: f"{_API}/layers?first_step=0")
    for width in ZOOMS:
        browser.fetch(f"/layers, {width:,} steps", ranged(f"{_API}/layers?", width))
    browser.fetch("/layers, weight norms of 1,000 steps", ranged(f"{_API}/layers?quantity=weight_norm&", 1_000))
    browser.fetch("post-mortem, JSON", lambda _: f"{_API}/postmortem?format=json")
    browser.fetch("post-mortem, page", lambda _: f"{_PAGE}/postmortem")


def measure(scratch: Path, title: str, pages: Callable[[Browser], None]) -> None:
    """Serves what is in `scratch`/data, fetches, and prints."""
    server = ServerProcess(scratch / "data")
    browser = Browser(server)
    try:
        pages(browser)
        table(title, ["page", "median", "server's processor", "size"], browser.rows)
        print(f"  memory of the server afterwards: {server.resident_bytes() / 2**20:.0f} MiB", flush=True)
    finally:
        browser.close()
        server.close()


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=150)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the long run, written when it is not there yet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seismograd-pages-") as directory:
        fleet, scratch = Path(directory) / "fleet", options.keep or Path(directory) / "long"
        for folder in (fleet, scratch):
            (folder / "data").mkdir(parents=True, exist_ok=True)
        write_fleet(fleet / "data" / "seismograd.db", options.runs)
        measure(fleet, f"A fleet of {options.runs:,} runs", fetch_fleet)
        spikes = options.steps // 2, options.steps - 1_000
        long, path = LongRun(options.steps, options.layers, options.ranks, spikes), scratch / "data" / "seismograd.db"
        if not path.exists():
            write_long(path, long)
        title = f"{long.steps:,} steps x {long.layers} layers x {long.ranks} ranks"
        measure(scratch, title, lambda browser: fetch_long(browser, long))


if __name__ == "__main__":
    main()
