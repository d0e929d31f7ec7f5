"""What a scrape costs: time to render the page, and its size, for 10,000 and 100,000 series.

    python -m tests.benchmarks.scrape

Beside it the same series from prometheus-client, which everybody else uses: from ready families, as a collector of its
own would hand them over, so that what is compared is the writing alone.
"""

from __future__ import annotations

import gc
import gzip
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from seismograd_server.instruments import Instruments
from seismograd_server.metrics import ExportLimits, new_registry, page, parse_layers
from seismograd_server.model import (
    DetectorStatus,
    LayerLevels,
    Run,
    RunKey,
    RunState,
    RunView,
    Severity,
    Signature,
    Snapshot,
    Tally,
    Visibility,
)
from tests.benchmarks.measure import interleave, median, paired_ratio, table

NOW = 1_700_000_000.0
ACCEPT = "application/openmetrics-text;version=1.0.0"
REPETITIONS = 15
LAYERS = tuple(f"encoder.layers.{index}.self_attn.in_proj_weight" for index in range(96))
# (series aimed at, layers exported)
CASES = ((10_000, "off"), (100_000, "off"), (100_000, "top_k:8"))


def live_run(number: int, dice: random.Random) -> RunView:
    """A run in which every family has a series and every number has all its digits."""
    run = Run(
        run_id=number,
        key=RunKey("machine-translation", f"lstm-{number}-{dice.randrange(10**6)}"),
        state=RunState.RUNNING,
        started_at=NOW - dice.random() * 1e5,
        last_record_at=NOW - dice.random(),
        ended_at=None,
        failure_reason="",
        config_json="",
        tags={"name": f"try {number}"},
        framework="torch 2.13.0",
        strategy="ddp",
        attempts=1,
        world_size=8,
        last_step=number,
        closed_steps=number + 1,
    )
    tally = Tally(
        step=number,
        grad_norm=dice.lognormvariate(0, 3),
        grad_norm_max=dice.random(),
        grad_norm_baseline=dice.random(),
        grad_norm_window=((28, dice.random()),),
        loss=dice.random(),
        loss_scale=65536.0,
        learning_rate=dice.random() * 1e-3,
        update_ratio=dice.random() * 1e-3,
        steps=number + 1,
        signatures={"spike": 2},
        rank_spread_ratio=1 + dice.random(),
        ranks_reporting=8,
    )
    levels = np.array([dice.random() for _ in LAYERS])
    return RunView(
        run,
        tally,
        active={Signature.SPIKE: Severity.WARNING} if number % 10 == 0 else {},
        statuses=tuple(DetectorStatus(each, Visibility.ARMED, "") for each in Signature if each is not Signature.FLEET),
        dtype="bfloat16",
        clock_skew_seconds=dice.random(),
        capture_share=dice.random() / 100,
        layers=LayerLevels(LAYERS, levels.astype(np.float32), levels[::-1].copy()),
    )


def series_on(body: bytes) -> int:
    """How many samples a page has."""
    return sum(not line.startswith(b"#") for line in body.splitlines())


class Ready(Collector):
    """Families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def seconds(work: Callable[[], object]) -> float:
    """Of this thread's CPU: another program that wants the core is no cost of ours."""
    gc.collect()
    began = time.thread_time()
    work()
    return time.thread_time() - began


def case(aim: int, layers: str) -> list[str]:
    """One row of the table."""
    dice = random.Random(0)
    instruments = Instruments(new_registry())
    limits = ExportLimits(runs=10**6, layers=parse_layers(layers))

    def render(runs: tuple[RunView, ...]) -> bytes:
        return page(ACCEPT, Snapshot(NOW, runs), instruments, NOW, limits)[0]

    one = live_run(0, dice)
    own = series_on(render(()))
    each = series_on(render((one,))) - own
    runs = tuple(replace(live_run(number, dice)) for number in range(-(-(aim - own) // each)))
    body = render(runs)
    theirs = CollectorRegistry()
    theirs.register(Ready(list(text_string_to_metric_families(body.decode()))))
    results = interleave(
        {"ours": lambda: seconds(lambda: render(runs)), "theirs": lambda: seconds(lambda: generate_latest(theirs))},
        REPETITIONS if aim > 10_000 else REPETITIONS * 3,
    )
    return [
        f"{series_on(body):,}",
        f"{len(runs):,}",
        layers,
        f"{median(results['ours']) * 1e3:.1f} ms",
        f"{min(results['ours']) * 1e3:.1f} ms",
        f"{paired_ratio(results['theirs'], results['ours']):.1f} x",
        f"{len(body) / 2**20:.2f} MiB",
        f"{len(gzip.compress(body, 6)) / 2**20:.2f} MiB",
    ]


def main() -> int:
    """Print the table."""
    table(
        "Scrape: CPU time to render /metrics in OpenMetrics",
        ["series", "runs", "layers", "median", "best", "prometheus-client takes", "size", "gzipped"],
        [case(*each) for each in CASES],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
