"""`seismograd rules` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from seismograd_server.commands.rules import rules
from tests.support.traces import write, write_explosion

Lines = list[dict[str, Any]]


def backtest(*arguments: str | Path) -> Result:
    return CliRunner().invoke(rules, ["backtest", *map(str, arguments)])


def lines(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    folder.mkdir()
    write(folder / "calm.npz")
    write_explosion(folder / "wild.npz", onset=80)
    return folder


def test_what_would_have_fired_is_written_as_the_scorer_reads_it(folder: Path, tmp_path: Path) -> None:
    done = backtest("--traces", folder, "--alerts-out", tmp_path / "alerts.jsonl")
    assert done.exit_code == 0, done.output
    found = lines(tmp_path / "alerts.jsonl")
    assert {line["run_id"] for line in found} == {"wild"}
    critical = next(line for line in found if line["severity"] == "critical")
    assert critical["kind"] == "runaway"
    assert 80 <= critical["step"] <= 95
    assert "runaway" in done.output


def test_nothing_that_fires_knows_what_comes_later(folder: Path, tmp_path: Path) -> None:
    backtest("--traces", folder, "--alerts-out", tmp_path / "whole.jsonl")
    first = next(line for line in lines(tmp_path / "whole.jsonl") if line["severity"] == "critical")
    write_explosion(folder / "wild.npz", steps=first["step"] + 1, onset=80)  # cut behind the step that fired
    backtest("--traces", folder, "--alerts-out", tmp_path / "cut.jsonl")
    assert lines(tmp_path / "cut.jsonl")[-1] == first


def test_a_bad_file_is_named_and_the_others_are_looked_at(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 not a trace")
    write(folder / "short.npz", loss=None)
    done = backtest("--traces", folder, "--alerts-out", tmp_path / "alerts.jsonl")
    assert done.exit_code == 1
    assert "broken.npz is no trace file that can be read" in done.stderr
    assert "short.npz lacks loss" in done.stderr
    assert {line["run_id"] for line in lines(tmp_path / "alerts.jsonl")} == {"wild"}


def test_programs_get_one_json_object(folder: Path) -> None:
    done = backtest("--traces", folder, "--json")
    answer = json.loads(done.stdout)
    assert answer["steps"] == 320
    assert answer["failures"] == []
    assert {line["run_id"] for line in answer["alerts"]} == {"wild"}


@pytest.mark.parametrize("columns", ["norms", "norms+loss", "all"])
def test_fewer_columns_can_be_asked_for(folder: Path, columns: str) -> None:
    answer = json.loads(backtest("--traces", folder, "--columns", columns, "--thin", "10", "--json").stdout)
    assert "critical" in {line["severity"] for line in answer["alerts"]}


def test_rules_decide_what_would_have_fired(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(
        """
        signature.spike.mute = true
        signature.nonfinite.mute = true
        signature.update_overshoot.mute = true
        [[override]]
        match = { project = "traces", run = "w*" }
        signature.runaway.severity = "warning"
        """
    )
    answer = json.loads(backtest("--traces", folder, "--rules", file, "--json").stdout)
    assert {(line["kind"], line["severity"]) for line in answer["alerts"]} == {("runaway", "warning")}


def test_rules_are_checked_and_every_problem_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text("signature.spike.mute = true\n")
    done = CliRunner().invoke(rules, ["check", str(file)])
    assert (done.exit_code, done.stdout) == (0, f"{file}: these rules can be used.\n")
    file.write_text("signature.spike.mut = true\nalerts.hold_seconds = -1\n")
    done = CliRunner().invoke(rules, ["check", str(file)])
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"{file}: line 1: signature.spike.mut is unknown: did you mean mute?",
        f"{file}: line 2: alerts.hold_seconds must lie between 0 and 1,000,000,000, not be -1",
    ]
    answer = json.loads(CliRunner().invoke(rules, ["check", str(file), "--json"]).stdout)
    assert (answer["ok"], len(answer["problems"])) == (False, 2)
    done = CliRunner().invoke(rules, ["check", str(tmp_path / "nowhere")])
    assert done.exit_code == 1
    assert "cannot be read" in done.output


def test_the_printed_defaults_are_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(CliRunner().invoke(rules, ["defaults"]).stdout)
    assert CliRunner().invoke(rules, ["check", str(file)]).exit_code == 0


def test_a_folder_or_a_file_that_cannot_be_used_is_one_line(folder: Path, tmp_path: Path) -> None:
    done = backtest("--traces", tmp_path / "nowhere")
    assert done.exit_code == 1
    assert "nowhere cannot be read as a folder of trace files" in done.output
    done = backtest("--traces", folder, "--alerts-out", tmp_path / "no" / "such" / "folder.jsonl")
    assert done.exit_code == 1
    assert "--alerts-out" in done.output
