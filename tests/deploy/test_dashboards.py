"""The dashboards' manners: what links and templates rely on. `test_queries.py` executes what they ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_queries import BOARDS, DEPLOY, panels
from tests.deploy.test_rules import ALERTS

PROVISIONING = DEPLOY / "grafana" / "provisioning"
_BOARD = pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)


def board_of(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def test_there_is_one_for_the_fleet_one_for_a_run_and_one_for_the_server() -> None:
    assert {path.stem for path in BOARDS} == {"seismograd-fleet", "seismograd-run", "seismograd-server"}


@_BOARD
def test_a_uid_is_for_ever_and_names_the_file(path: Path) -> None:
    assert board_of(path)["uid"] == path.stem


@_BOARD
def test_every_panel_explains_itself_and_asks_the_chosen_data_source(path: Path) -> None:
    shown = [panel for panel in panels(board_of(path)) if panel["type"] != "row"]
    assert shown
    for panel in shown:
        assert panel["title"], panel
        assert panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert "$job" in target["expr"] or "$instance" in target["expr"] or "$project" in target["expr"], target


@_BOARD
def test_panels_do_not_lie_on_each_other(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels(board_of(path)):
        place = panel["gridPos"]
        for row in range(place["y"], place["y"] + place["h"]):
            for column in range(place["x"], place["x"] + place["w"]):
                assert taken.setdefault((row, column), panel["title"]) == panel["title"]
                assert column < 24


def test_provisioning_finds_the_source_and_every_rule() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "seismograd.yml").read_text())["datasources"]
    uids = {source["uid"] for source in sources}
    rules = [
        rule
        for group in yaml.safe_load((PROVISIONING / "alerting" / "rules.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert {rule["title"] for rule in rules} == set(ALERTS)
    assert len({rule["uid"] for rule in rules}) == len(rules)
    for rule in rules:
        assert len(rule["uid"]) <= 40, "Grafana takes no longer one"
        assert {query["datasourceUid"] for query in rule["data"]} <= uids | {"__expr__"}
        assert "$value" not in json.dumps(rule).replace("$values.A.Value", ""), "Prometheus' dialect"
        assert "instance:seismograd" not in json.dumps(rule), "nobody records it there"


def test_contact_points_and_policies_agree() -> None:
    document = yaml.safe_load((PROVISIONING / "alerting" / "contact-points.yml").read_text())
    names = {point["name"] for point in document["contactPoints"]}
    assert {policy["receiver"] for policy in document["policies"]} <= names
