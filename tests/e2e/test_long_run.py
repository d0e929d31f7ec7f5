"""A run of ten thousand steps through a real server: summarised behind its back, read in few points and in all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seismograd
from seismograd_server.store.database import Database
from tests.support.long_run import KEY, LongRun, write
from tests.support.processes import eventually
from tests.support.seismograd import SeismogradServer

LONG = LongRun(steps=10_000, layers=20, ranks=4, spikes=(3, 4_711, 9_998))
NORMS = np.concatenate([LONG.norms(first, min(first + 1024, LONG.steps)) for first in range(0, LONG.steps, 1024)])
TOTALS = np.sqrt(np.square(NORMS, dtype=np.float64).sum(axis=1))
PATH = f"/api/v1/runs/{KEY.project}/{KEY.run}"


@pytest.fixture
def server(start_seismograd: Callable[..., SeismogradServer], tmp_path: Path) -> SeismogradServer:
    folder = tmp_path / "data"
    folder.mkdir()
    with Database.open(f"sqlite:///{folder / 'seismograd.db'}", owner="test") as database:
        write(database, LONG, 1_700_000_000.0)
    return start_seismograd(data_dir=folder)


def rows(values: Any, size: int) -> list[Any]:
    return [values[first : first + size] for first in range(0, len(values), size)]


def same(found: Any, truth: Any) -> None:
    """Equal but for what merging may have rounded: norms to 12 bits of mantissa."""
    np.testing.assert_allclose(found, truth, rtol=2.0**-12)


def test_no_spike_of_a_long_run_is_missing_from_few_points(server: SeismogradServer) -> None:
    def summarised() -> bool:
        _, count = server.page("/metrics").split('seismograd_maintenance_duration_seconds_count{chore="summarise"}')
        return float(count.split("\n", 1)[0]) > LONG.steps / 1024

    eventually(summarised, 60.0, "the run is summarised")
    answer = server.get(f"{PATH}/series?points=100")
    assert answer["resolution"] == 128
    same(answer["series"]["grad_norm_max"], [each.max() for each in rows(TOTALS, 128)])
    same(answer["series"]["grad_norm_min"], [each.min() for each in rows(TOTALS, 128)])
    layers = server.get(f"{PATH}/layers?first_step=0&columns=20")
    assert (layers["resolution"], layers["layers"]) == (512, LONG.names)
    same(layers["grad_norm"], [each.max(axis=0) for each in rows(NORMS, 512)])
    detail = server.get(f"{PATH}/layers?first_step=4700&last_step=4719")
    same(detail["grad_norm"], NORMS[4700:4720])


def test_the_same_in_python(server: SeismogradServer) -> None:
    with seismograd.connect(server.grpc) as client:
        run = client.run(KEY.project, KEY.run)
        norms, few = run.grad_norms(), run.grad_norms(points=100)
        same(norms.values, TOTALS)
        assert few.resolution == 128
        same(few.values, [each.max() for each in rows(TOTALS, 128)])
        part = run.layers(first_step=4_000, last_step=4_999)
        same(part.values, NORMS[4_000:5_000])
        layers = run.layers(points=20)
        same(layers.values, [each.max(axis=0) for each in rows(NORMS, 512)])
        same(layers.minimum, [each.min(axis=0) for each in rows(NORMS, 512)])
        assert layers.to_pandas().shape == (20, 20)
        assert run.loss(points=10).known.all()
