"""The client beside every major version of protobuf that it claims to work with, against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.seismograd import SeismogradServer

CLIENT = """
import json, sys
import google.protobuf
import torch
import seismograd

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
monitor = seismograd.watch(model, optimizer, project="compatibility", run=sys.argv[2], server=sys.argv[1])
for step in range(5):
    optimizer.zero_grad()
    loss = model(torch.ones(3, 4)).sum() * (float("nan") if step == 4 else 1.0)
    loss.backward()
    optimizer.step()
    monitor.log(loss=loss, batch=f"batch {step}")
monitor.checkpoint_saved(3, "/tmp/checkpoint")
report = monitor.finish(timeout_seconds=30.0)
norms = seismograd.connect(sys.argv[1]).run("compatibility", sys.argv[2]).grad_norms()
print(json.dumps([google.protobuf.__version__, report.delivered, report.complete, norms.values.tolist()[:4]]))
"""


@pytest.mark.parametrize("version", ["5.29", "6", "7"])
def test_the_client_encodes_and_decodes_with_protobuf(
    install: Callable[..., Path],
    run_beside: Callable[..., str],
    start_seismograd: Callable[[], SeismogradServer],
    version: str,
) -> None:
    server = start_seismograd()

    found, delivered, complete, norms = json.loads(
        run_beside(install(f"protobuf=={version}.*"), CLIENT, server.grpc, f"protobuf-{version}")
    )

    assert found.startswith(f"{version}.")
    assert (delivered, complete) == (5, True)
    assert len(norms) == 4
    assert min(norms) > 0.0
    run = server.get(f"/api/v1/runs/compatibility/protobuf-{version}")
    assert run["closed_steps"] == 5
    assert [checkpoint["step"] for checkpoint in run["checkpoints"]] == [3]
    series = server.get(f"/api/v1/runs/compatibility/protobuf-{version}/series")["series"]
    assert series["loss"][4] == "NaN"
    assert series["nonfinite"][4] > 0
