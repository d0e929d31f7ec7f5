"""`seismograd demo` when it cannot even begin: one line that names the thing and the fix."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from unittest.mock import create_autospec

import click.testing
import pytest

from seismograd_server.commands.remote import Remote
from seismograd_server.demo import demo
from seismograd_server.demo.observer import Observer
from seismograd_server.errors import SeismogradError


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(demo, arguments)


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = invoke("--data-dir", str(tmp_path / "file" / "below")).exception
    assert isinstance(error, SeismogradError)
    assert str(tmp_path / "file") in str(error)
    assert "--data-dir" in str(error)


def test_without_torch_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
    )
    error = invoke("--data-dir", str(tmp_path)).exception
    assert isinstance(error, SeismogradError)
    assert "pip install torch" in str(error)


def test_an_unknown_scenario_is_a_usage_error() -> None:
    result = invoke("--scenario", "gan")
    assert result.exit_code == 2
    assert "rank-fault" in result.output


def test_a_rerun_gets_the_next_number() -> None:
    known = {"runs": [{"run": name} for name in ("rnn-7-pushed", "lstm-2-healthy", "lstm-10-pushed", "lstm-99")]}
    remote = create_autospec(Remote, instance=True)  # of a server, the names alone are needed here
    remote.json.return_value = known
    observer = Observer(remote)
    assert (observer.next_number("lstm"), observer.next_number("mlp")) == (11, 1)
