"""The same through a real server: what its HTTP API says of a sharded run is what one process alone finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance.models import STEPS, train_alone
from tests.conformance.world import run_processes
from tests.support.processes import eventually
from tests.support.seismograd import SeismogradServer

CASE = "FSDP2"


def test_a_sharded_run_read_over_http_has_the_norms_of_one_process(
    start_seismograd: Callable[..., SeismogradServer], tmp_path: Path
) -> None:
    server = start_seismograd()
    run_processes("deliver", 2, str(tmp_path / "store"), server.grpc, CASE)
    truth = train_alone(oddities=True, tied=False, clips=True, skips=False)

    def closed() -> Any:
        series = server.get(f"/api/v1/runs/conformance/{CASE}/series")
        return series["series"] if series["count"] == STEPS else None

    series = eventually(closed, 30.0, f"{STEPS} steps are closed")
    np.testing.assert_allclose(series["grad_norm"], truth.totals, rtol=1e-6)
    layers = server.get(f"/api/v1/runs/conformance/{CASE}/layers")
    assert set(layers["layers"]) == set(truth.layers[0])
    for row, norms in zip(layers["grad_norm"], truth.layers, strict=True):
        assert dict(zip(layers["layers"], row, strict=True)) == pytest.approx(norms, rel=1e-6)
    run = server.get(f"/api/v1/runs/conformance/{CASE}")
    assert {rank["rank"] for rank in run["ranks"]} == {0, 1}
