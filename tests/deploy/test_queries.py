"""Every query that is shipped, asked of a real Prometheus that watches a real training of two ranks which explodes.

The same story shows that what explodes is told once, although push and rules both tell Alertmanager.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from seismograd_server.model import RunState
from tests.support.monitoring import Alertmanager, Prometheus
from tests.support.processes import eventually, free_port
from tests.support.receiver import Received, Receiver
from tests.support.seismograd import SeismogradServer

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
# What Grafana would put in the place of a variable.
VARIABLES = {
    "$job": "seismograd", "$project": ".*", "$run": "pair", "$instance": ".*",
    "$__rate_interval": "15s", "$__interval": "15s", "$__range": "10m",
}  # fmt: skip
# Series that begin with the event that they count, or hold only while it lasts: a healthy server has none of them.
BORN_OF_EVENTS = {
    "seismograd_run_lowest_missing_rank",
    "seismograd_client_dropped_records_total",
    "seismograd_detector_failures_total",
    "seismograd_run_signature_active{signature=",
    "seismograd_run_signature_active{signature=~",
}


@pytest.fixture
def start_pair(tmp_path: Path) -> Iterator[Callable[[str], tuple[Path, Path]]]:
    """Call it with a server; it gives the files that let the training explode, and end."""
    started: list[subprocess.Popen[str]] = []
    explode, end = tmp_path / "explode", tmp_path / "end"

    def start(server: str) -> tuple[Path, Path]:
        script, port = Path(__file__).with_name("train_pair.py"), str(free_port())
        for rank in range(2):
            environment = {
                **os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            command = [sys.executable, str(script), "--server", server, "--explode", str(explode), "--linger", str(end)]
            started.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        return explode, end

    yield start
    explode.touch()
    end.touch()
    for process in started:
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def filled_in(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert re.search(r"\$[a-z_]", expression) is None, expression
    return expression


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def shown() -> list[tuple[str, str]]:
    """(where, query) of every panel and variable."""
    found = []
    for path in BOARDS:
        board = json.loads(path.read_text())
        for panel in panels(board):
            found += [(f"{path.stem}: {panel['title']}", target["expr"]) for target in panel.get("targets", [])]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                expression = re.fullmatch(r"query_result\((.*)\)", variable["query"])
                assert expression is not None, variable
                found.append((f"{path.stem}: variable {variable['name']}", expression[1]))
    return found


def judged() -> list[tuple[str, str]]:
    """(where, query) of every rule and annotation: most of them give nothing as long as nothing is wrong."""
    found = []
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            found += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"]]
    for group in yaml.safe_load((DEPLOY / "grafana/provisioning/alerting/rules.yml").read_text())["groups"]:
        found += [(f"Grafana's {rule['title']}", rule["data"][0]["model"]["expr"]) for rule in group["rules"]]
    for path in BOARDS:
        for annotation in json.loads(path.read_text())["annotations"]["list"]:
            if "expr" in annotation:
                found.append((f"{path.stem}: {annotation['name']}", annotation["expr"]))
    return found


def selectors(expression: str) -> set[str]:
    """The series that an expression looks at."""
    found = re.findall(r"(?:[\w]+:)*(?:seismograd|process)_[\w:]+(?:{[^}]*})?", expression)
    return {each for each in found if not any(each.startswith(born) for born in BORN_OF_EVENTS)}


def alerts_told(requests: list[Received], path: str) -> list[dict[str, Any]]:
    return [alert for request in requests if request.path == path for alert in request.json()["alerts"]]


def test_every_query_has_an_answer_and_an_explosion_is_told_once(
    start_seismograd: Callable[..., SeismogradServer],
    start_alertmanager: Callable[..., Alertmanager],
    start_prometheus: Callable[..., Prometheus],
    start_pair: Callable[[str], tuple[Path, Path]],
    receiver: Receiver,
) -> None:
    example = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
    config = example.replace("http://127.0.0.1:5001", receiver.url).replace("group_interval: 1m", "group_interval: 1s")
    alertmanager = start_alertmanager(config=yaml.safe_load(config))
    server = start_seismograd(f'[notify]\nalertmanagers = ["{alertmanager.url}"]\n[export]\nlayers = "top_k:4"\n')
    prometheus = start_prometheus(f"{server.http}/metrics", rules=RULES, alertmanager=alertmanager.url)
    # Prometheus looks for its targets seconds after it is ready; a rate must see the counters before the first request.
    eventually(lambda: prometheus.query("up == 1"), 60, "a first scrape")
    explode, _ = start_pair(server.grpc)
    eventually(lambda: prometheus.query('seismograd_run_grad_norm_baseline{run="pair"}'), 120, "a calm training")
    explode.touch()

    # Prometheus sees it, and its rule fires.
    critical = 'ALERTS{alertstate="firing",run="pair",signature!="",severity="critical"}'
    fired = eventually(lambda: prometheus.query(critical), 120, "a critical rule fires")
    assert {alert["metric"]["source"] for alert in fired} == {"prometheus"}

    # Both tell Alertmanager ...
    def told_by_both() -> bool:
        held = [alert["labels"] for alert in alertmanager.alerts() if alert["labels"].get("signature")]
        by_rule = {labels["alertname"] for labels in held if labels.get("source") == "prometheus"}
        return bool(by_rule & {labels["alertname"] for labels in held if "source" not in labels})

    eventually(told_by_both, 60, "push and rule are both in Alertmanager")

    # ... and every query has an answer.
    unanswered = {(where, filled_in(query)) for where, query in shown()}
    assert len(unanswered) > 80, "the premise"

    def all_answered() -> bool:
        unanswered.difference_update({each for each in unanswered if prometheus.query(each[1])})
        return not unanswered

    with contextlib.suppress(pytest.fail.Exception):
        eventually(all_answered, 60, "every panel has data")
    assert sorted(unanswered) == []
    looked_at = set()
    for where, query in judged():
        prometheus.query(filled_in(query))  # fails the test when it cannot be executed
        looked_at |= {(where, selector) for selector in selectors(filled_in(query))}
    assert len(looked_at) > 30, "the premise"
    assert [each for each in sorted(looked_at) if not prometheus.query(each[1])] == []

    # A slow frame leads to a run, in OpenMetrics alone.
    page = server.page("/metrics", "application/openmetrics-text;version=1.0.0")
    assert re.search(
        r'^seismograd_ingest_request_duration_seconds_bucket{[^}]*} \S+ # {run_id="1"} ', page, re.MULTILINE
    )
    assert "# {run_id=" not in server.page("/metrics")

    # The people heard of it from the push, and from nobody else.
    receiver.wait_for(lambda requests: bool(alerts_told(requests, "/on-call")), timeout=60)
    about_run = [
        alert["labels"] for alert in alerts_told(receiver.requests, "/on-call") if "signature" in alert["labels"]
    ]
    assert about_run
    assert [labels for labels in about_run if "source" in labels] == []


def test_a_run_that_dies_raises_the_silent_rule(
    start_seismograd: Callable[..., SeismogradServer],
    start_prometheus: Callable[..., Prometheus],
    start_training: Callable[..., Any],
) -> None:
    server = start_seismograd("lost_after_seconds = 2\n")
    prometheus = start_prometheus(f"{server.http}/metrics", rules=RULES)
    training = start_training(server.grpc, "doomed", "--steps", "100000", "--step-seconds", "0.02")
    eventually(lambda: prometheus.query('seismograd_run_step{run="doomed"} > 0'), 120, "it trains")
    training.process.kill()
    training.process.communicate()
    silent = 'ALERTS{alertname="SeismogradRunSilent",alertstate="firing",run="doomed"}'
    (alert,) = eventually(lambda: prometheus.query(silent), 60, "the rule of silent runs fires")
    assert alert["metric"]["severity"] == "critical"
    (state,) = prometheus.query('seismograd_run_state{run="doomed"} == 1')
    assert state["metric"]["seismograd_run_state"] == RunState.LOST
