"""The rules: each one proven by promtool in both directions, explained by a runbook, and told once and not twice."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import click
import pytest
import yaml

from deploy.generate import drift
from deploy.prometheus.signatures import RUNBOOKS
from seismograd.cli import program
from seismograd_server.alerts import fleet
from seismograd_server.model import Severity, Signature
from seismograd_server.notify.payloads import SUMMARIES, alert_name, alertmanager_alerts
from tests.deploy.rules import CASES
from tests.support.processes import require_program

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
PAGES = sorted((DEPLOY / "runbooks").glob("Seismograd*.md"))
ON_CALL = DEPLOY / "runbooks" / "README.md"


def all_rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in all_rules() if "alert" in rule}


def run(*command: str | Path) -> None:
    done = subprocess.run([*command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_generated_is_up_to_date() -> None:
    assert drift() == []


def test_every_rule_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    promtool = require_program("promtool", "prometheus")
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
            "alert_rule_test": [
                {
                    "eval_time": f"{case.at}m",
                    "alertname": case.alert,
                    "exp_alerts": []
                    if case.labels is None
                    else [
                        {
                            "exp_labels": case.labels,
                            "exp_annotations": {
                                "summary": ALERTS[case.alert]["annotations"]["summary"],
                                "description": case.description,
                                "runbook_url": f"{RUNBOOKS}/{case.alert}.md",
                            },
                        }
                    ],
                }
            ],
        }
        for case in CASES
    ]
    content = {"rule_files": [str(path) for path in RULES], "evaluation_interval": "1m", "tests": tests}
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps(content))  # JSON is YAML
    run(promtool, "test", "rules", file)


def test_every_alert_is_tested_in_both_directions() -> None:
    assert {case.alert for case in CASES if case.labels is not None} == set(ALERTS)
    assert {case.alert for case in CASES if case.labels is None} == set(ALERTS)


def test_the_recorded_ratio_of_broken_steps_is_of_all_steps(tmp_path: Path) -> None:
    promtool = require_program("promtool", "prometheus")
    labels = 'project="mt",run="lstm-7",job="seismograd"'
    ratio = "project_run:seismograd_run_nonfinite_steps_per_steps:ratio_rate5m"
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f'seismograd_run_steps_total{{{labels},instance="a"}}', "values": "0+100x10"},
            {"series": f'seismograd_run_nonfinite_steps_total{{{labels},instance="a"}}', "values": "0+25x10"},
        ],
        "promql_expr_test": [
            {
                "expr": ratio,
                "eval_time": "8m",
                "exp_samples": [{"labels": f"{ratio}{{{labels}}}", "value": 0.25}],
            }
        ],
    }
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(path) for path in RULES], "tests": [test]}))
    run(promtool, "test", "rules", file)


def test_promtool_and_amtool_find_nothing_wrong() -> None:
    promtool, amtool = require_program("promtool", "prometheus"), require_program("amtool", "prometheus-alertmanager")
    run(promtool, "check", "rules", *RULES)
    run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    run(amtool, "check-config", DEPLOY / "alertmanager" / "alertmanager.yml")


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_it_is_and_has_a_page(name: str) -> None:
    rule = ALERTS[name]
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert "{{" not in annotations["summary"], "constant, so that it can be grouped by"
    assert annotations["runbook_url"] == f"{RUNBOOKS}/{name}.md"
    assert rule["labels"]["source"] == "prometheus"
    page = (DEPLOY / "runbooks" / f"{name}.md").read_text()
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    assert headings == [name, "What it means", "What to look at", "What to do"]
    assert all(part.strip() for part in re.split(r"^#+ .*$", page, flags=re.MULTILINE)[1:])


def test_every_page_is_about_an_alert_that_exists() -> None:
    assert {path.stem for path in PAGES} == set(ALERTS)


@pytest.mark.parametrize(
    "path", [DEPLOY / "README.md", ON_CALL, *PAGES], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_commands_on_pages_can_be_given_as_they_stand(path: Path) -> None:
    commands = re.findall(r"(?:^ {4,}|`)(?:/opt/seismograd/bin/)?(seismograd [^`\n]+)", path.read_text(), re.MULTILINE)
    assert commands or path != ON_CALL, "the premise"
    for line in commands:
        command, words = cast("click.Command", program), shlex.split(line)[1:]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, line
            command = found
        # An option that does not exist is an error, an argument too many is left over.
        _, left, _ = command.make_parser(click.Context(command)).parse_args(words)
        assert left == [], line


@pytest.mark.parametrize("name", ALERTS)
def test_a_page_says_how_grave_its_alert_can_be(name: str) -> None:
    signature = next((each for each in Signature if alert_name(each.value) == name), None)
    if signature is None:
        possible = {ALERTS[name]["labels"]["severity"]}
    else:
        module = fleet if signature is Signature.FLEET else import_module(f"seismograd_server.detect.{signature.value}")
        used = re.findall(r"\bSeverity\.([A-Z]+)", inspect.getsource(module))
        possible = {each.lower() for each in used} - {"none"}
    (line,) = re.findall(r"^Severity: .*$", (DEPLOY / "runbooks" / f"{name}.md").read_text(), re.MULTILINE)
    assert {each.label for each in Severity if re.search(rf"\b{each.label}\b", line)} == possible


def test_links_between_pages_lead_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]+)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def pushed(signature: Signature) -> dict[str, str]:
    """The labels of seismograd's own alert."""
    note: dict[str, Any] = {
        "signature": signature.value, "project": "mt", "run": "lstm-7", "severity": "critical", "scope": "", "url": "",
        "state": "firing", "opened_at": 0.0, "reason": "", "since_step": 1, "opened_step": 1, "evidence": {},
    }  # fmt: skip
    (alert,) = alertmanager_alerts(note, 0.0, 30.0, {})
    labels: dict[str, str] = alert["labels"]
    return labels


def receivers(labels: dict[str, str]) -> str:
    """Where the example sends an alert, as amtool tells."""
    amtool = require_program("amtool", "prometheus-alertmanager")
    config = f"--config.file={DEPLOY / 'alertmanager' / 'alertmanager.yml'}"
    command = [amtool, "config", "routes", "test", config, *(f"{name}={value}" for name, value in labels.items())]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.parametrize("signature", Signature)
def test_push_and_rule_name_an_alert_alike_and_only_the_push_reaches_people(signature: Signature) -> None:
    push = pushed(signature)
    (case,) = [
        case for case in CASES
        if case.alert == push["alertname"] and case.at == 1 and case.labels and case.labels["severity"] == "critical"
    ]  # fmt: skip
    assert case.labels is not None
    assert {"alertname": case.alert, **case.labels} == push | {"source": "prometheus"}
    assert ALERTS[alert_name(signature.value)]["annotations"]["summary"] == SUMMARIES[signature]
    assert receivers(push) == "on-call"
    assert receivers({"alertname": case.alert, **case.labels}) == "told-by-push"


@pytest.mark.parametrize(
    "case", {case.alert: case for case in CASES if case.labels}.values(), ids=lambda case: case.alert
)
def test_what_no_push_tells_reaches_people_from_the_rule(case: Any) -> None:
    expected = (
        "told-by-push" if "signature" in case.labels else "channel" if case.labels["severity"] == "info" else "on-call"
    )
    assert receivers({"alertname": case.alert, **case.labels}) == expected
