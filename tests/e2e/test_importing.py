"""Logs of other tools in, tables out: real libraries write, a real server judges, real readers read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import seismograd
from tests.support.exploding_log import ONSET, STEPS, rows
from tests.support.receiver import Receiver
from tests.support.seismograd import SeismogradServer
from tests.support.seismograd import seismograd as program

ROOT = Path(__file__).parents[2]
# TensorBoard keeps the order in which layers were logged, W&B none.
LAYERS = {
    "tensorboard": ["rnn.weight_hh", "head.weight"],
    "wandb": ["head.weight", "rnn.weight_hh"],
}


@pytest.fixture
def server(start_seismograd: Callable[..., SeismogradServer], receiver: Receiver) -> SeismogradServer:
    """A server that tells a webhook of every alert, and rounds no norm while a test compares them."""
    webhook = f'[[notify.webhooks]]\nurl = "{receiver.url}"\nsecret = "s"\nallow_hosts = ["127.0.0.1"]\n'
    return start_seismograd(f'[storage]\nmantissa_bits = "lossless"\n{webhook}')


def imported(server: SeismogradServer, *arguments: str | Path) -> dict[str, Any]:
    """What the command says as JSON."""
    addresses = ["--server", server.grpc, "--server-url", server.http, "--json"]
    done = program("import", *arguments, *addresses)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def refused(server: SeismogradServer, *arguments: str | Path) -> str:
    """The one line with which the command fails; then nothing was imported."""
    done = program("import", *arguments, "--server", server.grpc, "--server-url", server.http)
    assert done.returncode == 1, done.stdout
    assert server.get("/api/v1/runs")["runs"] == []
    (line,) = done.stderr.splitlines()
    return line


def written(tool: str, folder: Path) -> Path:
    """A log of the exploding run by the tool's own library, in a process of its own: it does much when imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "tests.e2e.write_logs", tool, str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, timeout=120)
    return folder if tool == "tensorboard" else next(folder.glob("wandb/offline-run-*"))


@pytest.mark.parametrize("tool", ["tensorboard", "wandb"])
def test_an_explosion_is_found_in_the_log_of_another_tool_and_nobody_is_notified(
    server: SeismogradServer, receiver: Receiver, tmp_path: Path, tool: str
) -> None:
    log = written(tool, tmp_path / tool)
    answer = imported(server, tool, log)
    assert (answer["imported"], answer["records"], answer["last_step"]) == (STEPS, STEPS, STEPS - 1)
    assert answer["unknown"] == ["eval/accuracy"]
    assert ("notes" in str(answer["unreadable"])) == (tool == "tensorboard"), "text is named, never silently dropped"
    critical = [each for each in answer["alerts"] if each["severity"] == "critical"]
    assert [each["signature"] for each in critical] == ["runaway"]
    assert ONSET < critical[0]["opened_step"] < ONSET + 20
    path = f"/api/v1/runs/{answer['project']}/{answer['run']}"
    assert server.get(path)["state"] == "finished"
    norms = [row["train/grad_norm"] for row in rows()]
    assert server.get(f"{path}/series")["series"]["grad_norm"] == pytest.approx(norms, rel=1e-5)
    assert server.get(f"{path}/layers?first_step=0&last_step=0")["layers"] == LAYERS[tool]
    assert "post-mortem" in server.page(f"{path}/postmortem")
    again = imported(server, tool, log)
    assert (again["imported"], again["records"]) == (0, STEPS)
    assert server.get(f"{path}/series")["closed_steps"] == STEPS
    assert len(server.get(f"{path}/alerts")["alerts"]) == len(answer["alerts"])
    assert receiver.requests == [], "what has happened elsewhere, some time ago, is no reason to wake anybody"


def test_a_log_that_has_grown_is_imported_from_where_it_was(server: SeismogradServer, tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, **row}) for step, row in enumerate(rows(120, 1000))]
    log = tmp_path / "mlp.jsonl"
    log.write_text("\n".join(lines[:70]) + "\n" + lines[70][:30])
    first = imported(server, "jsonl", log)
    assert (first["imported"], first["last_step"]) == (70, 69)
    assert any("torn" in note for note in first["notes"])
    log.write_text("\n".join(lines) + "\n")
    second = imported(server, "jsonl", log)
    assert (second["imported"], second["records"]) == (50, 120)
    series = server.get("/api/v1/runs/imported/mlp/series")["series"]
    assert series["step"] == list(range(120))
    assert set(series["attempt"]) == {1}


def test_a_column_is_what_the_person_says_and_a_dry_run_stores_nothing(
    server: SeismogradServer, tmp_path: Path
) -> None:
    log = tmp_path / "odd.csv"
    log.write_text(
        "iteration,g2,nll,enc\n" + "".join(f"{step},{1 + step % 3},{3 - step / 100},.5\n" for step in range(40))
    )
    mapping = ["--map", "grad_norm=g2", "--map", "loss=nll", "--map", "layer:encoder=enc"]
    dry = imported(server, "csv", log, *mapping, "--dry-run")
    assert (dry["dry_run"], dry["imported"], dry["layers"]) == (True, 0, ["encoder", "what was not logged"])
    assert server.get("/api/v1/runs")["runs"] == []
    done = imported(server, "csv", log, *mapping, "--project", "p", "--run", "r")
    assert (done["project"], done["run"], done["imported"]) == ("p", "r", 40)
    series = server.get("/api/v1/runs/p/r/series")["series"]
    assert series["grad_norm"] == pytest.approx([1.0 + step % 3 for step in range(40)], rel=1e-6)
    assert series["loss"] == [3 - step / 100 for step in range(40)]


def test_what_is_not_finite_in_a_log_is_seen(server: SeismogradServer, tmp_path: Path) -> None:
    history = [
        {"step": step, "grad_norm": "NaN" if step >= 80 else 1.0, "loss": float("nan") if step >= 81 else 2.0}
        for step in range(100)
    ]
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history, "max_steps": 100}))
    answer = imported(server, "trainer-state", folder / "trainer_state.json")
    assert answer["run"] == "bert"
    assert [(each["signature"], each["opened_step"]) for each in answer["alerts"]] == [("nonfinite", 80)]


def test_a_damaged_event_file_names_the_byte_and_a_torn_one_is_taken_up_to_there(
    server: SeismogradServer, tmp_path: Path
) -> None:
    folder = written("tensorboard", tmp_path / "tb")
    (events,) = folder.iterdir()
    data = events.read_bytes()
    events.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    assert "is damaged in the record at byte" in refused(server, "tensorboard", folder)
    events.write_bytes(data[: len(data) // 2])
    answer = imported(server, "tensorboard", folder)
    assert 100 < answer["imported"] < 200
    assert any("ends amid a record" in note for note in answer["notes"])


def test_a_neptune_export_has_its_runs_by_name(server: SeismogradServer, tmp_path: Path) -> None:
    values = [
        (run, name, float(step), pd.Timestamp(1e9 + step, unit="s"), value)
        for run in ("A-1", "A-2")
        for step, row in enumerate(rows(60, 1000))
        for name, value in row.items()
    ]
    frame = pd.DataFrame(values, columns=["run_id", "attribute_path", "step", "timestamp", "float_value"])
    frame.to_parquet(tmp_path / "export.parquet")
    assert "holds 2 runs (A-1, A-2 ...): name one" in refused(server, "neptune", tmp_path / "export.parquet")
    answer = imported(server, "neptune", tmp_path / "export.parquet", "--source-run", "A-2")
    assert (answer["run"], answer["imported"], answer["unknown"]) == ("A-2", 60, ["eval/accuracy"])
    assert server.get("/api/v1/runs/imported/A-2/series")["series"]["time"][:2] == [1e9, 1e9 + 1]


def test_an_export_is_the_run_again_in_pandas_and_in_the_next_import(server: SeismogradServer, tmp_path: Path) -> None:
    log = tmp_path / "source.jsonl"
    lines = [{"step": 10 * step, **row} for step, row in enumerate(rows())]
    lines[7]["train/grad_norm"] = float("inf")
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    imported(server, "jsonl", log)
    for target in ("run.parquet", "run.csv"):
        done = program("export", "source", "--to", tmp_path / target, "--layers", "--server-url", server.http)
        assert done.returncode == 0, done.stderr
    run = seismograd.connect(server.grpc).run("imported", "source")
    frames = {"parquet": pd.read_parquet(tmp_path / "run.parquet"), "csv": pd.read_csv(tmp_path / "run.csv")}
    for frame in frames.values():
        assert frame["step"].tolist() == [line["step"] for line in lines]
        np.testing.assert_array_equal(frame["grad_norm"], run.grad_norms().values)
        assert frame["nonfinite"].tolist() == [int(row == 7) for row in range(STEPS)]
        assert frame["loss_scale"].isna().all()
    assert list(frames["parquet"].dtypes.astype(str)[["step", "loss"]]) == ["int64", "float64"]
    about = pq.read_schema(tmp_path / "run.parquet").metadata
    assert (about[b"seismograd.project"], about[b"seismograd.run"]) == (b"imported", b"source")
    layers = pd.read_parquet(tmp_path / "run.layers.parquet").pivot(index="step", columns="layer", values="grad_norm")
    assert layers.shape == (STEPS, 2)
    assert layers["head.weight"].tolist()[:7] == pytest.approx([line["grad_norm/head.weight"] for line in lines[:7]])
    assert sorted(each.name for each in tmp_path.glob("*run*")) == [
        "run.csv",
        "run.layers.csv",
        "run.layers.parquet",
        "run.parquet",
    ], "nothing unfinished is left"
    again = imported(server, "parquet", tmp_path / "run.parquet", "--run", "copy")
    assert again["imported"] == STEPS


def test_an_export_without_a_run_or_a_place_says_so_and_leaves_nothing(
    server: SeismogradServer, tmp_path: Path
) -> None:
    where = ["--server-url", server.http]
    assert "no run" in program("export", "nothing", "--to", tmp_path / "a.csv", *where).stderr
    log = tmp_path / "a.jsonl"
    log.write_text('{"step": 1, "grad_norm": 2}\n')
    imported(server, "jsonl", log)
    assert "end it in .parquet or .csv" in program("export", "a", "--to", tmp_path / "a.xlsx", *where).stderr
    assert "cannot be written" in program("export", "a", "--to", tmp_path / "none" / "a.csv", *where).stderr
    assert "has no norms of layers" in program("export", "a", "--to", tmp_path / "b.csv", "--layers", *where).stderr
    assert not list(tmp_path.glob(".*"))
