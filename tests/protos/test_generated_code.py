"""The committed protobuf code: up to date, well formed, and accepted by every runtime that users may have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"

# The oldest that the package allows, and the newest of each major version.
RUNTIMES = {"5.29.x": "protobuf>=5.29,<5.30", "6.x": "protobuf>=6,<7", "7.x": "protobuf>=7,<8"}

ROUND_TRIP = """
import sys, warnings
warnings.simplefilter("error")
import google.protobuf
from google.protobuf.internal import api_implementation
from seismograd_proto.v1 import TELEMETRY_SERVICE, QUERY_SERVICE, method_path, query, telemetry

assert google.protobuf.__file__.startswith(sys.argv[1]), google.protobuf.__file__
batch = telemetry.StepBatch(rank_handle=2**63, kind=telemetry.RECORD_KIND_STEP, first_step=-5, steps=bytes(range(64)))
batch.scalars.add(quantity=telemetry.QUANTITY_LOSS, values=b"12345678")
batch.nonfinite.rows = b"abcd"
open_run = telemetry.OpenRunRequest(project="mt", tags={"team": "nlp"}, config_json="{}")
frame = telemetry.StreamStepsRequest(batches=[batch, batch])
series = query.GetSeriesRequest(project="mt", first_step=0)
for message in (batch, open_run, frame, series):
    assert type(message).FromString(message.SerializeToString()) == message
# Frames of one stream can be joined as bytes: the server relies on it.
assert len(telemetry.StreamStepsRequest.FromString(frame.SerializeToString() * 3).batches) == 6
assert series.HasField("first_step") and not series.HasField("last_step")
assert telemetry.DESCRIPTOR.services_by_name["TelemetryService"].full_name == TELEMETRY_SERVICE
assert query.DESCRIPTOR.services_by_name["QueryService"].full_name == QUERY_SERVICE
assert method_path(TELEMETRY_SERVICE, "OpenRun") == "/seismograd.v1.TelemetryService/OpenRun"
print(google.protobuf.__version__, api_implementation.Type())
"""


@pytest.fixture(scope="session", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder that holds one protobuf runtime, installed once per session."""
    target = tmp_path_factory.mktemp("protobuf") / request.param
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", target, RUNTIMES[request.param]], check=True, timeout=240)
    return request.param, target


def test_the_generated_code_imports_and_round_trips(runtime: tuple[str, Path]) -> None:
    wanted, folder = runtime
    finished = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(PROTOS)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    version, implementation = finished.stdout.split()
    assert re.match(wanted.replace(".x", r"\."), version)
    assert implementation == "upb"


def test_the_generated_code_is_what_the_compiler_writes_now() -> None:
    finished = subprocess.run(
        [sys.executable, PROTOS / "generate.py", "--check"], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_drift_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "protos"
    shutil.copytree(PROTOS, copy)
    generated = copy / "seismograd_proto" / "v1" / "query_pb2.py"
    generated.write_text(generated.read_text() + "\n")
    finished = subprocess.run(
        [sys.executable, copy / "generate.py", "--check"], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 1
    assert "query_pb2.py" in finished.stderr
    assert "make proto" in finished.stderr


def test_the_definitions_pass_the_linter() -> None:
    beside = Path(sysconfig.get_path("scripts")) / "buf"
    buf = str(beside) if beside.exists() else shutil.which("buf")
    assert buf is not None, "buf is missing: run `make install` (it installs buf-bin)"
    finished = subprocess.run([buf, "lint"], cwd=PROTOS, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
