"""The program's entry: commands found by entry point, every failure one line."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import click
import pytest

from seismograd import cli
from seismograd.errors import UnknownRunError


class EntryPoint:
    """Stands for the server package's entry point."""

    def __init__(self, load: Callable[[], list[click.Command]]) -> None:
        self.load = load


@pytest.fixture
def server_brings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets the server package bring these commands, or fail to load."""
    monkeypatch.setattr(cli.program, "_found", None)
    monkeypatch.delenv("SEISMOGRAD_DEBUG", raising=False)

    def bring(*bodies: Callable[[], Any], missing: str | None = None, installed: bool = True) -> None:
        def load() -> list[click.Command]:
            if missing is not None:
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
            return [click.command(body.__name__)(body) for body in bodies]

        entry_points = [EntryPoint(load)] if installed else []
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entry_points if group else [])

    return bring


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"seismograd, version {importlib.metadata.version('seismograd')}\n"


def test_the_servers_commands_are_listed_and_run(
    server_brings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor() -> None:
        """Look for trouble."""
        click.echo("all is well")

    server_brings(doctor)
    assert cli.run(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out
    assert cli.run(["doctor"]) == 0
    assert capsys.readouterr().out == "all is well\n"


@pytest.mark.parametrize("state", [{"missing": "sqlalchemy"}, {"missing": "seismograd_server"}, {"installed": False}])
def test_without_the_server_its_commands_name_what_to_install(
    state: dict[str, Any], server_brings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    server_brings(**state)
    assert cli.run(["serve", "--data-dir", "x"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: 'serve' needs the server")
    assert 'pip install "seismograd[server]"' in error
    assert error.count("\n") == 1
    assert state.get("missing", "not installed") in error


def test_a_misspelt_command_is_a_usage_error_with_the_nearest_name(
    server_brings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    server_brings(installed=False)
    assert cli.run(["postmortm"]) == 2
    assert "No such command 'postmortm'. Did you mean 'postmortem'?" in capsys.readouterr().err
    assert cli.run(["xyzzy"]) == 2
    assert "`seismograd --help` lists the commands" in capsys.readouterr().err


def test_a_wrong_option_is_a_usage_error(server_brings: Callable[..., None]) -> None:
    server_brings(installed=False)
    assert cli.run(["--no-such-option"]) == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UnknownRunError("no run mt/lstm-8; did you mean mt/lstm-7?"), "no run mt/lstm-8; did you mean mt/lstm-7?"),
        (click.ClickException("port 7450 is in use"), "port 7450 is in use"),
        (OSError("disk\nfull"), "OSError: disk full (SEISMOGRAD_DEBUG=1 shows where)"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_one(
    error: BaseException, line: str, server_brings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def serve() -> None:
        raise error

    server_brings(serve)
    assert cli.run(["serve"]) == 1
    assert capsys.readouterr().err.strip() == f"Error: {line}"


def test_debug_shows_the_traceback(
    server_brings: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve() -> None:
        raise OSError("disk full")

    server_brings(serve)
    monkeypatch.setenv("SEISMOGRAD_DEBUG", "1")
    assert cli.run(["serve"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (3, 3), (4, 4)])
def test_a_command_may_choose_its_exit_code(
    returned: int | None, code: int, server_brings: Callable[..., None]
) -> None:
    def clip() -> int | None:
        return returned

    server_brings(clip)
    assert cli.run(["clip"]) == code


def test_the_process_exits_with_the_code(server_brings: Callable[..., None]) -> None:
    def clip() -> None:
        raise click.exceptions.Exit(5)

    server_brings(clip)
    with pytest.raises(SystemExit) as caught:
        cli.main(["clip"])
    assert caught.value.code == 5
