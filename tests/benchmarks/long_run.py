"""Reading a run of a million steps: an overview over HTTP, a thousand steps of it, the server's start and memory.

The run is written through the store's own repositories (replica 0 with norms by layer, the others with a total and a
digest; 1,024 records to a segment, as after merging), and summarised by the server's own chore. Then a real server is
started on it and read from, an overview and a stretch somewhere else each time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.store.database import Database
from tests.benchmarks.measure import median, table
from tests.support.long_run import KEY, LongRun, write

READS = 50
DETAIL_STEPS = 1000
LABELS = {
    "series": "overview: the series",
    "heatmap": "overview: the heatmap of the layers",
    "detail": f"detail: series and layers of {DETAIL_STEPS} steps",
}


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prepare(path: Path, long: LongRun) -> list[list[str]]:
    """Writes and summarises the run; gives what that took."""
    with Database.open(f"sqlite:///{path}", owner="benchmark") as database:
        written = timed(lambda: write(database, long, time.time() - long.steps))
        raw = database.size_bytes()
        summarised = timed(lambda: summarise(database))
        with database.read() as transaction:
            size = "SELECT SUM(LENGTH(payload)), COUNT(*) FROM summaries"
            summaries, rows = transaction.connection.exec_driver_sql(size).one()
    values = long.steps * long.layers
    return [
        ["written", f"{written:.1f} s, {raw / 2**20:.0f} MiB, not compacted"],
        ["summarised", f"{summarised:.1f} s, {1e6 * summarised / long.steps:.0f} us a step"],
        ["summaries", f"{summaries / 2**20:.1f} MiB in {rows} rows, {summaries / values:.4f} bytes a value"],
    ]


def summarise(database: Database) -> None:
    """Lets the chore do all that there is."""
    chore = Summarising(database)
    while chore.step(0.0):
        pass


class Reader:
    """A server process on the data, and its API."""

    def __init__(self, folder: Path, long: LongRun) -> None:
        command = [str(Path(sys.executable).with_name("seismograd")), "serve", "--json", "--data-dir", str(folder)]
        command += ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        self._log = (folder.parent / "server.log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        port = json.loads(self.process.stdout.readline())["http_port"]
        self.home = f"http://127.0.0.1:{port}"
        self._http = httpx.Client(base_url=f"{self.home}/api/v1/runs/{KEY.project}/{KEY.run}", timeout=60)
        self._long = long
        self._first = 0

    def read(self, path: str, **query: int) -> dict[str, object]:
        """One answer."""
        response = self._http.get(path, params=query)
        response.raise_for_status()
        answer: dict[str, object] = response.json()
        return answer

    def series(self) -> None:
        """The series of all steps, as a chart is drawn."""
        assert self.read("/series")["closed_steps"] == self._long.steps

    def layers(self) -> None:
        """The heatmap of all steps."""
        assert len(str(self.read("/layers", first_step=0)["layers"])) > 2

    def detail(self) -> None:
        """Series and layers of a thousand steps somewhere else."""
        self._first = (self._first + 7919 * DETAIL_STEPS) % max(1, self._long.steps - DETAIL_STEPS)
        last = self._first + DETAIL_STEPS - 1
        self.read("/series", first_step=self._first, last_step=last)
        self.read("/layers", first_step=self._first, last_step=last, columns=120)

    def memory(self) -> float:
        """Resident MiB of the server."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def cpu(self) -> float:
        """Seconds of processor that the server has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def timed(self, work: Callable[[], object]) -> tuple[float, float]:
        """Seconds that a read takes, and seconds of the server's processor."""
        before = self.cpu()
        return timed(work), self.cpu() - before

    def close(self) -> None:
        """Stops the server."""
        self._http.close()
        self.process.terminate()
        self.process.wait(timeout=30)
        self._log.close()


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=300)
    parser.add_argument("--ranks", type=int, default=8)
    options = parser.parse_args()
    long = LongRun(options.steps, options.layers, options.ranks)
    with tempfile.TemporaryDirectory(prefix="seismograd-long-") as directory:
        folder = Path(directory) / "data"
        folder.mkdir()
        rows = prepare(folder / "seismograd.db", long)
        started = time.perf_counter()
        reader = Reader(folder, long)
        try:
            rows.append(["server ready after", f"{time.perf_counter() - started:.2f} s"])
            for work in (reader.series, reader.layers, reader.detail):
                work()  # whatever is loaded once
            before = reader.memory()
            times: dict[str, list[tuple[float, float]]] = {"series": [], "heatmap": [], "detail": []}
            for _ in range(READS // 2):
                times["series"].append(reader.timed(reader.series))
                times["heatmap"].append(reader.timed(reader.layers))
                times["detail"].append(reader.timed(reader.detail))
            for name, label in LABELS.items():
                wall, cpu = (1e3 * median(list(column)) for column in zip(*times[name], strict=True))
                rows.append([label, f"{wall:.0f} ms, of the server's processor {cpu:.0f} ms"])
            rows.append([f"memory before and after {READS} reads", f"{before:.0f} and {reader.memory():.0f} MiB"])
        finally:
            reader.close()
    table(f"{long.steps} steps x {long.layers} layers x {long.ranks} ranks", ["reading a long run", ""], rows)


if __name__ == "__main__":
    main()
