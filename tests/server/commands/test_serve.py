"""`seismograd serve` as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.seismograd import PROGRAM, seismograd

# Stopping takes a second at most where nothing is in flight; three times that, on a machine that does other things.
STOP_SECONDS = 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server on free ports that prints JSON."""
    command = [PROGRAM, "serve", "--json", "--data-dir", str(tmp_path / "data")]
    command += ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def first_line(process: subprocess.Popen[str]) -> dict[str, object]:
    stream = process.stdout
    assert stream is not None
    line = stream.readline()
    assert line, process.communicate()[1]
    values: dict[str, object] = json.loads(line)
    return values


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_serve_tells_its_ports_in_one_line_and_ends_well_on_a_signal(
    server: subprocess.Popen[str], signum: signal.Signals
) -> None:
    ready = first_line(server)
    assert ready["event"] == "ready"
    assert ready["pid"] == server.pid
    assert httpx.get(f"{ready['http']}/readyz", trust_env=False).status_code == 200
    server.send_signal(signum)
    output, errors = server.communicate(timeout=STOP_SECONDS)
    assert server.returncode == 0, errors
    assert output == ""
    assert "Traceback" not in errors


def test_a_configuration_is_tried_without_a_server(tmp_path: Path) -> None:
    config = tmp_path / "seismograd.toml"
    (tmp_path / "rules.toml").write_text("")
    config.write_text(f'data_dir = "{tmp_path / "data"}"\n[rules]\nfile = "{tmp_path / "rules.toml"}"\n')
    tried = seismograd("serve", "--config", config, "--check")
    assert (tried.returncode, tried.stdout) == (0, f"{config}: this configuration can be used.\n")
    assert json.loads(seismograd("serve", "--config", config, "--check", "--json").stdout)["event"] == "checked"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("tick_miliseconds = 5", "did you mean tick_milliseconds?"),
        ('[[notify.webhooks]]\nurl = "https://hooks.example.com/x"', "it has no secret"),
        ('[notify.templates]\ntitle = "{{ severty }}"', "did you mean severity?"),
        ('[export.otlp]\nendpoint = "collector:4318"', "no whole address"),
        ('[rules]\nfile = "/nowhere.toml"', "/nowhere.toml cannot be read"),
    ],
)
def test_a_configuration_with_which_no_server_would_start_is_told(tmp_path: Path, wrong: str, said: str) -> None:
    config = tmp_path / "seismograd.toml"
    config.write_text(wrong)
    tried = seismograd("serve", "--config", config, "--check")
    assert (tried.returncode, tried.stdout) == (1, "")
    assert said in tried.stderr
    assert tried.stderr.count("\n") == 1


def test_the_doctor_is_content_with_a_running_server(server: subprocess.Popen[str], tmp_path: Path) -> None:
    ready = first_line(server)
    result = seismograd(
        "doctor", "--server-url", str(ready["http"]), "--server", str(ready["grpc"]), "--data-dir", tmp_path / "data"
    )
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("problem") == 0
    assert f"{ready['grpc']} is serving" in result.stdout


def test_the_program_lists_the_servers_commands() -> None:
    shown = seismograd("--help").stdout
    for command in ("serve", "runs", "alerts", "postmortem", "doctor", "db"):
        assert command in shown


def test_a_usage_error_is_exit_code_2_and_a_failure_one_line_with_1(tmp_path: Path) -> None:
    assert seismograd("runs", "list", "--limit", "many").returncode == 2
    config = tmp_path / "seismograd.toml"
    config.write_text("datadir = 'x'\n")
    result = seismograd("serve", "--config", config)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "datadir" in result.stderr
    assert "data_dir" in result.stderr


def test_a_proxy_for_the_internet_is_not_asked_for_this_machine(server: subprocess.Popen[str]) -> None:
    ready = first_line(server)
    environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    command = [PROGRAM, "runs", "list", "--server-url", str(ready["http"])]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
