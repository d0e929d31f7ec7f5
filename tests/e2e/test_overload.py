"""A job that comes to a full server trains on, keeps its records, and gets in by itself when there is room."""

from __future__ import annotations

import re
from collections.abc import Callable

import grpc
import httpx

from seismograd_proto.v1 import telemetry
from seismograd_server.config import Settings
from tests.faults.shipping import unary
from tests.support.processes import eventually
from tests.support.seismograd import SeismogradServer, Training

# 1 MiB for live runs: one of nine hundred parameters leaves too little for another of any size.
CONFIG = f"""
max_inflight_bytes = {2**20}
max_memory_bytes = {2**30 - Settings(max_memory_bytes=2**30, max_inflight_bytes=2**20).standing_bytes + 2**20}
lost_after_seconds = 3600.0
"""
PATIENCE = 120.0


def refusals(server: SeismogradServer) -> float:
    found = re.search(r'^seismograd_ingest_refusals_total\{what="run"\} (\S+)$', server.page("/metrics"), re.MULTILINE)
    assert found is not None
    return float(found[1])


def squat(channel: grpc.Channel) -> int:
    """Take the room; gives the rank's handle."""
    parameters = [telemetry.Parameter(name=f"layer.{index}") for index in range(900)]
    request = telemetry.OpenRunRequest(
        project="e2e",
        run="squatter",
        launch_id="squatter",
        world_size=1,
        session_id="squatter",
        catalogs=[telemetry.Catalog(parameters=parameters)],
    )
    return int(unary(channel, "OpenRun", request, telemetry.OpenRunResponse).rank_handle)


def test_a_job_that_finds_the_server_full_loses_nothing_and_comes_back_by_itself(
    start_seismograd: Callable[..., SeismogradServer], start_training: Callable[..., Training]
) -> None:
    server = start_seismograd(CONFIG)
    with grpc.insecure_channel(server.grpc) as channel:
        handle = squat(channel)
        training = start_training(server.grpc, "late", "--steps", "120", linger=True)
        eventually(lambda: len(training.journal()) == 120 or None, PATIENCE, "the end of the training")
        eventually(lambda: refusals(server) or None, PATIENCE, "a refusal")
        assert [run["run"] for run in server.get("/api/v1/runs")["runs"]] == ["squatter"]
        farewell = telemetry.CloseRunRequest(rank_handle=handle, outcome=telemetry.RANK_OUTCOME_FINISHED)
        unary(channel, "CloseRun", farewell, telemetry.CloseRunResponse)

    def arrived() -> bool:
        answer = httpx.get(f"{server.http}/api/v1/runs/e2e/late", timeout=30.0, trust_env=False)
        return answer.status_code == 200 and answer.json()["closed_steps"] == 120

    eventually(lambda: arrived() or None, PATIENCE, "every record of the job that was refused")
    training.let_go()
    training.finish()
