"""The commands as a person runs them, against the real application on a real port."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
import uvicorn
from click.testing import CliRunner, Result
from sqlalchemy import select, update

from seismograd_server.commands import COMMANDS
from seismograd_server.model import RunKey
from seismograd_server.store.schema import segments
from tests.support.processes import free_port
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, healthy_norms

Program = Callable[..., Result]


@pytest.fixture
def server_url(stocked: Stocked) -> Iterator[str]:
    """The address of the web application over the stocked store."""
    stocked.add("odd [bold]name\u202e", norms=healthy_norms(5))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(stocked.app(), port=port, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, name="web", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10.0)


@pytest.fixture
def program(server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """Run a command in an empty directory."""
    monkeypatch.setenv("SEISMOGRAD_URL", server_url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, text: str | None = None) -> Result:
        command = next(command for command in COMMANDS if command.name == arguments[0])
        return CliRunner().invoke(command, list(arguments[1:]), input=text)

    return run


def test_every_promised_command_is_there() -> None:
    assert {"serve", "runs", "alerts", "rules", "ask", "postmortem", "doctor", "db"} <= {
        command.name for command in COMMANDS
    }
    groups = {command.name: set(command.commands) for command in COMMANDS if isinstance(command, click.Group)}
    assert groups["runs"] >= {"list", "show", "delete"}
    assert groups["alerts"] >= {"list", "show", "ack", "judge", "precision"}
    assert groups["silence"] >= {"add", "list", "expire"}
    assert groups["db"] >= {"upgrade", "backup", "restore", "check"}
    assert groups["rules"] >= {"check", "backtest"}


def test_runs_are_listed_for_people_and_for_programs(program: Program) -> None:
    shown = program("runs", "list")
    assert shown.exit_code == 0, shown.output
    assert "mt/exploding" in shown.output
    assert "critical" in shown.output
    runs = json.loads(program("runs", "list", "--json").output)["runs"]
    assert [run["run"] for run in runs][-1] == "exploding"
    assert [
        run["run"] for run in json.loads(program("runs", "list", "--state", "running", "--json").output)["runs"]
    ] == ["healthy"]


def test_a_name_from_outside_is_no_markup_on_the_terminal(program: Program) -> None:
    output = program("runs", "list").output
    assert "odd [bold]name\\u202e" in output


def test_a_run_is_shown_by_its_full_name_or_by_a_unique_one(program: Program) -> None:
    for name in ("mt/exploding", "exploding"):
        shown = program("runs", "show", name)
        assert shown.exit_code == 0, shown.output
        assert "runaway" in shown.output
    values = json.loads(program("runs", "show", "exploding", "--json").output)
    assert values["run"] == "exploding"
    assert values["alerts"]


@pytest.mark.parametrize(
    "command", [("runs", "show"), ("runs", "delete", "--yes"), ("postmortem",), ("alerts", "list", "--run")]
)
def test_an_unknown_run_is_one_line_with_the_nearest_name_and_exit_code_1(
    program: Program, command: tuple[str, ...]
) -> None:
    result = program(*command, "explodng")
    assert result.exit_code == 1
    assert result.stderr.strip() == 'Error: no run "explodng"; did you mean "exploding"?'
    assert (
        program(*command, "mt/explodng").stderr.strip() == 'Error: no run "mt/explodng"; did you mean "mt/exploding"?'
    )


def test_a_run_name_in_two_projects_has_to_be_told_apart(program: Program, stocked: Stocked) -> None:

    run = SyntheticRun(stocked.pipeline, name="exploding", launch="other", world_size=1)
    stocked.pipeline.open_rank(replace(run.identity(0), key=RunKey("other", "exploding")), [], NOW)
    result = program("runs", "show", "exploding")
    assert result.exit_code == 1
    assert "mt/exploding" in result.stderr
    assert "other/exploding" in result.stderr


def test_a_run_is_deleted_only_after_a_yes(program: Program) -> None:
    assert program("runs", "delete", "exploding", text="n\n").exit_code == 1
    assert program("runs", "show", "exploding").exit_code == 0
    assert json.loads(program("runs", "delete", "exploding", "--yes", "--json").output)["deleted"] is True
    assert program("runs", "show", "exploding").exit_code == 1


def test_a_running_run_is_not_deleted(program: Program) -> None:
    result = program("runs", "delete", "healthy", "--yes")
    assert result.exit_code == 1
    assert "still running" in result.stderr


def test_a_job_is_asked_and_what_became_of_it_is_shown(program: Program, stocked: Stocked) -> None:
    run = SyntheticRun(stocked.pipeline, name="asked", launch="launch-asked")
    run.capabilities = ("stop", "capture_more")
    run.open(NOW)
    assert program("ask", "asked", "stop", "--by", "Ada", "--reason", "too dear").output == (
        "Asked 2 ranks of mt/asked to stop.\n"
    )
    capture = program("ask", "mt/asked", "capture", "--first-step", "5", "--last-step", "1009", "--all-ranks")
    assert capture.output == "Asked 2 ranks of mt/asked to hand over the flight recorder, steps 5 to 1,009.\n"
    assert json.loads(program("ask", "asked", "stop", "--json").output)["kind"] == "stop"
    refused = program("ask", "asked", "checkpoint")
    assert (refused.exit_code, "no rank of run mt/asked" in refused.output) == (1, True)
    assert program("ask", "exploding", "stop").exit_code == 1
    assert program("ask", "asked", "explode").exit_code == 2
    shown = program("runs", "show", "asked").output
    assert "Ada" in shown
    assert "2 no answer" in shown


def test_alerts_are_listed_and_acknowledged(program: Program) -> None:
    alerts = json.loads(program("alerts", "list", "--run", "exploding", "--json").output)["alerts"]
    shown = program("alerts", "list")
    assert alerts[0]["alert_id"] in shown.output
    assert program("alerts", "ack", alerts[0]["alert_id"], "--by", "Ada").output == "Acknowledged by Ada.\n"
    again = json.loads(program("alerts", "ack", alerts[0]["alert_id"], "--by", "Bob", "--json").output)
    assert again["acknowledged_by"] == "Ada"
    assert program("alerts", "ack", "nothing/at all").exit_code == 1


def test_the_history_of_an_alert_and_what_people_said_of_it_are_shown(program: Program) -> None:
    (alert, *_) = json.loads(program("alerts", "list", "--run", "exploding", "--json").output)["alerts"]
    assert "seismograd alerts judge" in program("alerts", "precision").output
    assert program("alerts", "ack", alert["alert_id"], "--by", "Ada", "--note", "on it").exit_code == 0
    assert program("alerts", "judge", alert["alert_id"], "wrong", "--note", "planned").output == "Called wrong.\n"
    shown = program("alerts", "show", alert["alert_id"]).output
    assert "Ada" in shown
    assert "on it" in shown
    assert "called wrong" in shown
    assert "planned" in shown
    history = json.loads(program("alerts", "show", alert["alert_id"], "--json").output)["history"]
    assert [event["by"] for event in history[-2:-1]] == ["Ada"]
    assert "0%" in program("alerts", "precision").output
    assert json.loads(program("alerts", "precision", "--json").output)["precision"][0]["wrong"] == 1
    assert program("alerts", "judge", alert["alert_id"], "perhaps").exit_code == 2


def test_a_silence_is_added_listed_and_ended(program: Program) -> None:
    assert program("silence", "list").output == "No silence.\n"
    added = program(
        "silence", "add", "--run", "sweep-*", "--for", "2h", "--by", "Ada", "--reason", "a restart", "--json"
    )
    silence = json.loads(added.output)
    assert silence["expires_at"] - silence["created_at"] == 7200.0
    shown = program("silence", "list").output
    assert "sweep-*" in shown
    assert "a restart" in shown
    assert program("silence", "expire", silence["silence_id"], "--by", "Bob").output.endswith("is over.\n")
    assert program("silence", "list").output == "No silence.\n"
    assert "(over)" in program("silence", "list", "--all").output
    assert program("silence", "add").exit_code == 1, "a silence of everything"
    assert program("silence", "add", "--run", "x", "--for", "soon").exit_code == 2
    assert program("silence", "expire", "nothing").exit_code == 1


def test_runs_are_compared_with_where_they_part_and_what_they_were_given(program: Program) -> None:
    shown = program("runs", "compare", "exploding", "healthy", "odd [bold]name\u202e")
    assert shown.exit_code == 0, shown.output
    assert "The gradient norms of mt/healthy and mt/exploding stay together" in shown.output
    assert "runaway at" in shown.output
    assert "odd [bold]name\\u202e" in shown.output
    assert "world size" in shown.output
    values = json.loads(program("runs", "compare", "exploding", "healthy", "--align", "progress", "--json").output)
    assert values["align"] == "progress"
    assert [run["run"] for run in values["runs"]] == ["exploding", "healthy"]
    alone = program("runs", "compare", "exploding")
    assert (alone.exit_code, "two runs at least" in alone.stderr) == (1, True)
    unknown = program("runs", "compare", "exploding", "helthy")
    assert 'did you mean "healthy"?' in unknown.stderr


def test_a_clip_threshold_is_recommended_with_what_others_would_have_done(program: Program) -> None:
    shown = program("clip", "exploding")
    assert shown.exit_code == 0, shown.output
    assert "Recommended: " in shown.output
    assert "(recommended)" in shown.output
    assert "99.9 %" in shown.output
    assert "from the onset" in shown.output
    values = json.loads(program("clip", "mt/exploding", "--at", "0.5", "--at", "4", "--json").output)
    assert [each["threshold"] for each in values["thresholds"]] == [0.5, 4.0]
    assert values["onset_step"] is not None
    refused = program("clip", "exploding", "--at", "-1")
    assert (refused.exit_code, "at: '-1.0' is no threshold" in refused.stderr) == (1, True)
    assert program("clip", "exploding", "--at", "much").exit_code == 2
    assert program("clip", "odd [bold]name\u202e").exit_code == 0


def test_a_post_mortem_goes_to_a_file_named_after_the_run(program: Program, tmp_path: Path) -> None:
    result = program("postmortem", "exploding")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "postmortem-mt-exploding.html").read_text().startswith("<!doctype html>")
    assert "postmortem-mt-exploding.html" in result.output


def test_a_post_mortem_takes_its_format_from_the_file_or_the_option(program: Program, tmp_path: Path) -> None:
    assert program("postmortem", "exploding", "-o", "report.md").exit_code == 0
    assert (tmp_path / "report.md").read_text().startswith("# mt/exploding")
    assert json.loads(program("postmortem", "exploding", "--format", "json").output)["verdict"] == "exploded"
    assert program("postmortem", "exploding", "-o", "-", "--format", "md").output.startswith("# mt/exploding")
    values = json.loads(program("postmortem", "exploding", "-o", "x.html", "--json").output)
    named = {"project": "mt", "run": "exploding", "incident": ""}
    assert values == {**named, "format": "html", "path": "x.html", "bytes": values["bytes"]}
    assert program("postmortem").exit_code == 2
    assert "name a run, or an incident" in program("postmortem", "exploding", "--incident", "x").stderr
    assert "no alert" in program("postmortem", "--incident", "0" * 24).stderr


def test_a_post_mortem_that_cannot_be_written_names_the_file(program: Program) -> None:
    result = program("postmortem", "exploding", "-o", "no/such/folder/report.html")
    assert result.exit_code == 1
    assert "no/such/folder/report.html" in result.stderr


def test_an_unreachable_server_is_named_with_the_way_to_start_one() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for arguments in (["list"], ["show", "x"]):
        runs = next(command for command in COMMANDS if command.name == "runs")
        result = CliRunner().invoke(runs, [*arguments, "--server-url", url])
        assert result.exit_code == 1
        assert url in result.stderr
        assert "seismograd serve" in result.stderr
        assert result.stderr.count("\n") == 1


def test_an_address_that_is_none_is_refused(program: Program) -> None:
    result = program("runs", "list", "--server-url", "ftp://x")
    assert result.exit_code == 1
    assert "ftp://x" in result.stderr


def test_the_database_is_brought_up_to_date(program: Program, tmp_path: Path) -> None:
    result = program("db", "upgrade", "--data-dir", str(tmp_path / "new"), "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert answer["upgraded"] is True
    assert answer["from_revision"] is None
    again = program("db", "upgrade", "--data-dir", str(tmp_path / "new"))
    assert f"was up to date already, at revision {answer['revision']}" in again.output
    shutil.copyfile(Path(__file__).parents[2] / "golden" / "store_revision_1.sqlite", tmp_path / "old.db")
    upgraded = program("db", "upgrade", "--database-url", f"sqlite:///{tmp_path / 'old.db'}")
    assert f"went from 0001 to revision {answer['revision']}" in upgraded.output


def test_a_check_names_what_is_damaged_and_fails(program: Program, stocked: Stocked) -> None:
    url = f"sqlite:///{stocked.database.name}"
    with stocked.database.begin() as transaction:
        row, payload = transaction.connection.execute(select(segments.c.segment_id, segments.c.payload)).all()[0]
        broken = update(segments).where(segments.c.segment_id == row)
        transaction.connection.execute(broken.values(payload=payload[:-1] + bytes([payload[-1] ^ 64])))
    told = program("db", "check", "--database-url", url)
    assert told.exit_code == 1
    assert f"mt/exploding, rank 0, steps 0 to 199: segment {row} cannot be read" in told.output
    assert "1 of " in told.output
    listed = program("db", "check", "--database-url", url, "--json")
    assert listed.exit_code == 1
    assert '"sound": false' in listed.output


def test_a_database_is_backed_up_checked_and_restored(program: Program, stocked: Stocked, tmp_path: Path) -> None:
    url = f"sqlite:///{stocked.database.name}"
    made = program("db", "backup", str(tmp_path / "backup.db"), "--database-url", url)
    assert made.exit_code == 0, made.output
    assert "3 runs" in made.output
    assert program("db", "backup", str(tmp_path / "backup.db"), "--database-url", url).exit_code == 1
    assert json.loads(program("db", "check", "--database-url", url, "--json").output)["sound"] is True
    assert "in use by" in program("db", "restore", str(tmp_path / "backup.db"), "--force", "--database-url", url).output

    elsewhere = ("--data-dir", str(tmp_path / "elsewhere"))
    restored = program("db", "restore", str(tmp_path / "backup.db"), *elsewhere)
    assert restored.exit_code == 0, restored.output
    assert "--force" in program("db", "restore", str(tmp_path / "backup.db"), *elsewhere).output
    forced = program("db", "restore", str(tmp_path / "backup.db"), "--force", *elsewhere)
    assert "seismograd.db.replaced-1: delete it when you are content" in forced.output.replace("\n", "")


def test_a_database_with_tools_of_its_own_is_left_to_them(program: Program, tmp_path: Path) -> None:
    for command, tool in (("backup", "pg_dump"), ("restore", "pg_restore")):
        refused = program("db", command, "file", "--database-url", "postgresql://user:secret@host/seismograd")
        assert refused.exit_code == 1
        assert tool in refused.output
        assert "secret" not in refused.output


def test_the_doctor_finds_what_is_missing_and_says_how_to_mend_it(program: Program) -> None:
    result = program("doctor", "--server", f"127.0.0.1:{free_port()}", "--json")
    checks = {check["name"]: check for check in json.loads(result.output)["checks"]}
    assert result.exit_code == 1
    assert checks["pages"]["ok"]
    assert checks["server version"]["ok"]
    assert checks["protobuf"]["ok"]
    assert not checks["gRPC"]["ok"]
    assert "seismograd serve" in checks["gRPC"]["fix"]
    # The application's clock stands at a moment in 2023.
    assert not checks["clock"]["ok"]
    assert "NTP" in checks["clock"]["fix"]


def test_the_doctor_names_a_data_directory_that_is_a_file(program: Program, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = program("doctor", "--data-dir", "taken/data", "--server", f"127.0.0.1:{free_port()}")
    assert "taken is a file" in result.output
    assert "fix:" in result.output


def test_rules_are_backtested_over_what_the_server_has(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text("signature.runaway.mute = true\n")
    shown = program("rules", "backtest", "--rules", str(file))
    assert shown.exit_code == 0, shown.output
    assert re.search(r"mt/exploding +runaway +– +– +critical +1\d\d +gone", shown.output)
    answer = json.loads(program("rules", "backtest", "--project", "mt", "--json").output)
    assert answer["failures"] == []
    runs = {run["run"]: [each["verdict"] for each in run["findings"]] for run in answer["runs"]}
    assert runs["healthy"] == []
    assert set(runs["exploding"]) == {"same"}


def test_a_backtest_looks_at_runs_of_a_project_since_a_time(program: Program) -> None:
    assert json.loads(program("rules", "backtest", "--project", "asr", "--json").output)["runs"] == []
    assert json.loads(program("rules", "backtest", "--since", "1w", "--json").output)["runs"] == []  # of 2023
    since = program("rules", "backtest", "--since", "2023-01-01", "--json")
    assert len(json.loads(since.output)["runs"]) == 3
    assert program("rules", "backtest", "--since", "soon").exit_code == 2


def test_rules_that_cannot_be_used_reach_no_server(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text("signature.spike.mut = true\n")
    done = program("rules", "backtest", "--rules", str(file))
    assert done.exit_code == 1
    assert "line 1: signature.spike.mut is unknown: did you mean mute?" in done.output
