"""What commands print with --json is what their schemas say: every key described, none missing, none left over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator

from seismograd.cli import program as whole_program
from seismograd_server.commands import COMMANDS
from seismograd_server.commands.schema import schema_names, schema_of
from seismograd_server.errors import UsageError
from tests.server.commands.test_commands import program, server_url
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, exploding_losses, exploding_norms
from tests.support.traces import write_explosion

__all__ = ["program", "server_url"]

Program = Callable[..., Result]
# Commands that do something and say what they did in a few words of their own; every other one is a reading command.
WRITING = {"serve", "demo", "sync", "import", "export", "db backup", "db restore", "db upgrade"}


def commands(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for each in command.list_commands(context):
        found = command.get_command(context, each)
        assert found is not None
        yield from commands(found, f"{name} {each}".strip())


def test_every_command_that_reads_has_a_schema() -> None:
    speaking = {
        name for name, command in commands(whole_program) if any("--json" in each.opts for each in command.params)
    }
    assert speaking - WRITING == set(schema_names())
    assert speaking >= WRITING


@pytest.mark.parametrize("name", schema_names())
def test_every_schema_is_one_and_describes_each_key(name: str) -> None:
    found = schema_of(name)
    Draft202012Validator.check_schema(found)
    keys = [(path, part) for path, part in parts(found, "") if path.rpartition("/")[0].endswith("/properties")]
    assert [path for path, part in keys if not told(part)] == []


def parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from parts(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from parts(inner, f"{path}/{place}")


def told(part: dict[str, Any]) -> bool:
    return "description" in part or "$ref" in part


def valid(name: str, printed: str) -> Any:
    values = json.loads(printed)
    errors = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in Draft202012Validator(schema_of(name)).iter_errors(values)
    ]
    assert errors == []
    return values


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("runs list", []),
        ("runs show", ["exploding"]),
        ("runs show", ["asked"]),
        ("runs compare", ["exploding", "healthy", "broken"]),
        ("runs compare", ["exploding", "empty", "--align", "progress"]),
        ("alerts list", []),
        ("alerts precision", []),
        ("silence list", ["--all"]),
        ("check", ["exploding"]),
        ("clip", ["exploding"]),
        ("clip", ["healthy", "--at", "0.5"]),
        ("clip", ["empty"]),
        ("top", ["--once"]),
        ("postmortem", ["exploding"]),
        ("rules backtest", []),
        ("doctor", []),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_what_reading_commands_print_is_what_their_schemas_say(
    program: Program, everything: None, name: str, arguments: list[str]
) -> None:
    result = program(*name.split(), *arguments, "--json")
    valid(name, result.stdout)


@pytest.fixture
def everything(program: Program, stocked: Stocked) -> None:
    """Runs, alerts, silences and directives of every kind in the store."""
    norms, losses = exploding_norms(60, 40), exploding_losses(60, 40)
    norms[55:] = losses[50:] = float("inf")
    stocked.add("broken", norms=norms, losses=losses)
    stocked.add("empty", norms=norms[:0], finish=False)
    asked = SyntheticRun(stocked.pipeline, name="asked", launch="launch-asked")
    asked.capabilities = ("stop", "capture_more")
    asked.open(NOW)
    (alert, *_) = json.loads(program("alerts", "list", "--run", "exploding", "--json").stdout)["alerts"]
    valid("alerts ack", program("alerts", "ack", alert["alert_id"], "--by", "Ada", "--json").stdout)
    valid("alerts judge", program("alerts", "judge", alert["alert_id"], "wrong", "--json").stdout)
    valid("alerts show", program("alerts", "show", alert["alert_id"], "--json").stdout)
    silence = valid("silence add", program("silence", "add", "--run", "sweep-*", "--json").stdout)
    valid("silence expire", program("silence", "expire", silence["silence_id"], "--json").stdout)
    valid("ask", program("ask", "asked", "stop", "--json").stdout)
    capture = ("ask", "asked", "capture", "--first-step", "5", "--last-step", "9", "--json")
    valid("ask", program(*capture).stdout)


def test_what_is_printed_of_files_and_databases_is_what_the_schemas_say(
    program: Program, stocked: Stocked, tmp_path: Path
) -> None:
    valid("db check", program("db", "check", "--database-url", f"sqlite:///{stocked.database.name}", "--json").stdout)
    for text, ok in (("", True), ("[runaway]\nspeed = 1\n", False)):
        (tmp_path / "rules.toml").write_text(text)
        assert valid("rules check", program("rules", "check", "rules.toml", "--json").stdout)["ok"] is ok
    (tmp_path / "traces").mkdir()
    write_explosion(tmp_path / "traces" / "wild.npz")
    found = valid("rules backtest", program("rules", "backtest", "--traces", "traces", "--json").stdout)
    assert found["alerts"]
    deleted = program("runs", "delete", "exploding", "--yes", "--json")
    assert valid("runs delete", deleted.stdout)["deleted"] is True


def test_an_answer_that_lacks_a_key_or_has_one_too_many_is_no_answer(program: Program) -> None:
    values = json.loads(program("runs", "list", "--json").stdout)
    validator = Draft202012Validator(schema_of("runs list"))
    assert validator.is_valid(values)
    del values["runs"][0]["state"]
    assert not validator.is_valid(values)
    values["runs"][0] |= {"state": "running", "colour": "red"}
    assert not validator.is_valid(values)


def test_a_schema_is_printed_and_a_mistyped_one_answered_with_the_nearest() -> None:
    command = next(each for each in COMMANDS if each.name == "schema")
    shown = CliRunner().invoke(command, ["runs", "list"])
    assert json.loads(shown.stdout) == schema_of("runs list")
    assert CliRunner().invoke(command, []).stdout.split("\n")[:-1] == schema_names()
    with pytest.raises(UsageError, match='did you mean "runs list"'):
        schema_of("runs lits")
