"""Values per second made durable: the whole server (acks, detection, alerts on) beside Prometheus and SQL rows.

A value is one (run, rank, step, layer) gradient norm; 150 layers. Every arm runs client and server on one and the same
core, in turn, and is timed from the first value sent to the last one acknowledged ("durable"), and on to the last step
that the detectors have judged ("judged"): the second figure is what the server sustains. A stream is a run in a
connection of its own; what sends to us is as lean as what sends to Prometheus (`lean.py`), because Python's gRPC client
would take more of the core than our server does. Prometheus receives remote write of as many runs' series, in turn
through one connection, at the same number of steps a request (its write-ahead log is not synced to disk, ours is
committed; it judges nothing; its series exist before it is timed). While one of the two has its turn the other one is
stopped, and both are while frames are prepared: what a server does later, such as collecting garbage or merging what it
has stored, it does in its own time.

Before every turn of either, the memory that it will fill is touched, so that a virtual machine's host has backed it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from tests.benchmarks.lean import exchange, settle
from tests.benchmarks.measure import interleave, median, paired_ratio, table, touch_memory
from tests.benchmarks.remote_write import Prometheus
from tests.benchmarks.serving import LAYERS, LeanStream, ServerProcess, close_all, open_all, walk

STEPS_A_REQUEST = (1, 16, 64)
STREAMS = (1, 100, 1000)
# Enough requests, over all streams, that an arm runs for some five seconds on one core, whatever its speed: the last
# steps of a run may wait a fifth of a second to be judged together, a fleet that was stopped has chores due in each of
# its runs, neither of which is part of what the server sustains, and within a second a garbage collector may have done
# nothing yet.
REQUESTS = {1: 60000, 16: 30000, 64: 8000}
PROMETHEUS_REQUESTS = {1: 6000, 16: 3000, 64: 1000}
ROW_STEPS = 300
PATIENCE_SECONDS = 120.0


class Seismograd:
    """One server process, and runs that go on from one repetition to the next."""

    def __init__(self, folder: Path) -> None:
        self.server = ServerProcess(folder)
        # What is judged is stored: to read it there costs the server nothing, as hundreds of scrapes a minute would.
        self._stored = sqlite3.connect(f"file:{folder}/seismograd.db?mode=ro", uri=True)
        self._streams: dict[int, list[LeanStream]] = {}
        self._sent = 0
        self.judged: dict[tuple[int, int], list[float]] = {}
        self.cpu_seconds: dict[tuple[int, int], float] = {}

    def open(self, count: int) -> None:
        """Opens so many runs, each in a connection of its own."""
        self._streams[count] = [LeanStream(self.server.target, f"run-{index}-of-{count}") for index in range(count)]
        open_all(self._streams[count])

    def turn(self, streams: int, steps: int) -> float:
        """Prepares frames, goes on, sends them, and stops the server again; values per second as `send`."""
        own = self._streams[streams]
        requests = max(1, REQUESTS[steps] // streams)
        for seed, each in enumerate(own):
            each.prepare(requests, steps, walk(steps, seed))
        touch_memory()
        with self.server.going_on():
            speed = self.send(streams, steps, streams * requests * steps)
        settle(each.connection for each in own)
        return speed

    def send(self, streams: int, steps: int, total: int) -> float:
        """Values per second from the first frame to the durable ack of the last one; so many steps wait in all."""
        behind = set(self._streams[streams])

        def all_durable() -> bool:
            while behind and (one := next(iter(behind))).durable:
                behind.remove(one)
            return not behind

        cpu, began = self.server.cpu_seconds(), time.perf_counter()
        exchange([each.connection for each in self._streams[streams]], all_durable)
        elapsed = time.perf_counter() - began
        self._sent += total
        while self.judged_steps() < self._sent:
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise TimeoutError(f"{self._sent - self.judged_steps()} steps have not been judged")
            threading.Event().wait(0.05)  # the core belongs to the server meanwhile
        key = (streams, steps)
        self.judged.setdefault(key, []).append(total * LAYERS / (time.perf_counter() - began))
        self.cpu_seconds[key] = (self.server.cpu_seconds() - cpu) / (total * LAYERS)
        return total * LAYERS / elapsed

    def judged_steps(self) -> int:
        """Steps that the detectors have seen, of all runs."""
        (steps,) = self._stored.execute("SELECT coalesce(sum(closed_steps), 0) FROM runs").fetchone()
        return int(steps)

    def close(self) -> None:
        """Ends every run, and the server."""
        self.server.go_on()
        try:
            for streams in self._streams.values():
                close_all(streams)
        finally:
            self._stored.close()
            self.server.close()


class SqlRows:
    """What a straightforward server does: a row per value, SQLAlchemy Core, 1,000 rows a transaction, WAL."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._engine = sa.create_engine(f"sqlite:///{folder}/rows.sqlite")
        self._table = sa.Table(
            "value",
            sa.MetaData(),
            *[sa.Column(name, sa.Integer, primary_key=True) for name in ("run", "layer", "rank", "step")],
            sa.Column("norm", sa.Float),
        )
        self._table.metadata.create_all(self._engine)
        with self._engine.connect() as connection:
            connection.exec_driver_sql("pragma journal_mode=wal")
        self._runs = 0

    def send(self) -> float:
        """Values per second inserted."""
        self._runs += 1
        norms = walk(ROW_STEPS, self._runs)
        rows = [
            {"run": self._runs, "layer": layer, "rank": 0, "step": step, "norm": value}
            for step, row in enumerate(norms.tolist())
            for layer, value in enumerate(row)
        ]
        began = time.perf_counter()
        for start in range(0, len(rows), 1000):
            with self._engine.begin() as connection:
                connection.execute(self._table.insert(), rows[start : start + 1000])
        return len(rows) / (time.perf_counter() - began)

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()


def main() -> None:
    """Prints values per second and the ratios to Prometheus and to SQL rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # children inherit it: client and server share the core
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        rows = SqlRows(folder / "rows")
        stack.callback(rows.close)
        peer = Prometheus(folder / "prometheus") if shutil.which("prometheus") else None
        if peer is None:
            print("prometheus is not installed: its columns are left out")
        else:
            stack.callback(peer.close)
            peer.stop()
        for streams in arguments.streams:
            own = folder / f"seismograd-{streams}"
            ours = Seismograd(own)
            try:
                measure(ours, peer, rows, streams, arguments.repetitions)
            finally:
                ours.close()
            shutil.rmtree(own)  # gigabytes of disk and page cache


def measure(ours: Seismograd, peer: Prometheus | None, rows: SqlRows, streams: int, repetitions: int) -> None:
    """Measures and prints the table for so many streams."""
    memory = ours.server.resident_bytes()
    ours.open(streams)
    ours.server.stop()
    arms: dict[str, Callable[[], float]] = {"rows": rows.send}
    for steps in STEPS_A_REQUEST:
        arms[f"ours {steps}"] = functools.partial(ours.turn, streams, steps)
        if peer is not None:
            arms[f"prometheus {steps}"] = functools.partial(peer.turn, streams, PROMETHEUS_REQUESTS[steps], steps)
    interleave(arms, 1)  # warm-up: caches, page files, the first run's tables
    results = interleave(arms, repetitions)
    lines = []
    for steps in STEPS_A_REQUEST:
        own, beside = results[f"ours {steps}"], results.get(f"prometheus {steps}")
        judged = ours.judged[streams, steps][-repetitions:]
        lines.append(
            [
                str(steps),
                f"{median(own) / 1e6:.2f} M",
                f"{median(judged) / 1e6:.2f} M",
                f"{median(beside) / 1e6:.2f} M" if beside else "-",
                f"{paired_ratio(own, beside):.1f} x" if beside else "-",
                f"{paired_ratio(judged, beside):.1f} x" if beside else "-",
                f"{paired_ratio(judged, results['rows']):.0f} x",
                f"{ours.cpu_seconds[streams, steps] * 1e9:.0f} ns",
            ]
        )
    header = ["steps a request", "values/s durable", "judged", "Prometheus", "durable / Prometheus"]
    header += ["judged / Prometheus", "judged / SQL rows", "server CPU a value"]
    name = f"{streams} stream{'s' if streams > 1 else ''}"
    table(f"Server throughput, {name}, client and server on one core, {LAYERS} layers", header, lines)
    ours.server.go_on()
    grown = (ours.server.resident_bytes() - memory) / 2**20
    print(
        f"  memory of the server: {memory / 2**20:.0f} MiB at the start, {grown:+.0f} MiB with {name}"
        f" ({grown / streams * 1000:.0f} MiB per 1,000 runs)"
        if streams > 1
        else f"  SQL rows: {median(results['rows']):,.0f} values/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
