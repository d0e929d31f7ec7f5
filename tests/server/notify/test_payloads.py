from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from dataclasses import replace

import pytest

from seismograd_server.model import (
    Alert,
    AlertState,
    Evidence,
    Resolution,
    RunKey,
    Severity,
    Signature,
    Transition,
)
from seismograd_server.notify.payloads import (
    SUMMARIES,
    alert_name,
    alertmanager_alerts,
    describe,
    description,
    label_name,
    notification,
    webhook_body,
)
from seismograd_server.notify.signing import sign

NOW = 1_700_000_000.0
ALERT = Alert(
    alert_id="abc",
    run_id=7,
    key=RunKey("mt", "lstm 7"),
    signature=Signature.RUNAWAY,
    scope="",
    severity=Severity.CRITICAL,
    state=AlertState.FIRING,
    since_step=800,
    opened_step=812,
    last_step=812,
    opened_at=NOW,
    updated_at=NOW,
    resolved_at=None,
    resolution=None,
    evidence=Evidence(
        value=math.inf,
        baseline=1.5,
        doubling_time_steps=14.25,
        steps_to_overflow=300.0,
        leading_layer="rnn.weight_hh_l0",
        leading_rank=3,
        details={"norms": [1.0, math.nan]},
    ),
    reason="the gradient norm doubles every 14 steps",
    fingerprint="f" * 64,
    told=Severity.CRITICAL,
)
OPENED = Transition(ALERT, None, "opened", NOW, notify=True)
RESOLVED = replace(ALERT, state=AlertState.RESOLVED, resolved_at=NOW + 60, resolution=Resolution.RECOVERED)


def test_labels_are_the_identity_and_the_end_is_four_missed_resends_away() -> None:
    (sent,) = alertmanager_alerts(notification(OPENED, "https://s.example/"), NOW + 10, 30.0, {})
    assert sent["labels"] == {
        "alertname": "SeismogradRunaway",
        "project": "mt",
        "run": "lstm 7",
        "signature": "runaway",
        "severity": "critical",
    }
    assert sent["startsAt"] == "2023-11-14T22:13:20.000Z"
    assert sent["endsAt"] == "2023-11-14T22:15:30.000Z"
    assert sent["generatorURL"] == "https://s.example/runs/mt/lstm%207"


def test_who_is_paged_is_led_to_the_page_that_says_what_to_do() -> None:
    (sent,) = alertmanager_alerts(notification(OPENED, "", "https://docs.example/seismograd/"), NOW, 30.0, {})
    assert sent["annotations"]["runbook_url"] == "https://docs.example/seismograd/SeismogradRunaway.md"
    older = {name: value for name, value in notification(OPENED, "").items() if name != "runbook_url"}
    for note in (notification(OPENED, ""), older):
        assert set(alertmanager_alerts(note, NOW, 30.0, {})[0]["annotations"]) == {"summary", "description"}


def test_a_resolved_alert_ends_when_it_was_resolved() -> None:
    note = notification(Transition(RESOLVED, AlertState.FIRING, "recovered", NOW + 60, notify=True), "")
    (sent,) = alertmanager_alerts(note, NOW + 200, 30.0, {})
    assert sent["endsAt"] == "2023-11-14T22:14:20.000Z"
    assert "generatorURL" not in sent
    assert note["resolution"] == "recovered"


def test_an_end_is_never_before_the_start() -> None:
    backwards = replace(RESOLVED, resolved_at=NOW - 5)
    (sent,) = alertmanager_alerts(describe(backwards, ""), NOW, 30.0, {})
    assert sent["endsAt"] == sent["startsAt"]


def test_a_severity_that_rose_closes_the_milder_alert() -> None:
    rose = Transition(ALERT, AlertState.FIRING, "escalated", NOW + 5, notify=True, told_before=Severity.WARNING)
    critical, warning = alertmanager_alerts(notification(rose, ""), NOW + 5, 30.0, {})
    assert (critical["labels"]["severity"], warning["labels"]["severity"]) == ("critical", "warning")
    assert warning["endsAt"] == "2023-11-14T22:13:25.000Z"
    assert critical["endsAt"] > warning["endsAt"]


def test_what_nobody_was_told_leaves_nothing_to_close() -> None:
    for before in AlertState:
        rose = Transition(ALERT, before, "reopened", NOW, notify=True, severity_before=Severity.WARNING)
        assert len(alertmanager_alerts(notification(rose, ""), NOW, 30.0, {})) == 1


def test_an_alert_that_grew_unheard_is_closed_under_the_severity_that_was_told() -> None:
    resolved = replace(RESOLVED, told=Severity.WARNING)
    note = notification(
        Transition(resolved, AlertState.FIRING, "recovered", NOW + 60, True, told_before=resolved.told), ""
    )
    (sent,) = alertmanager_alerts(note, NOW + 200, 30.0, {})
    assert sent["labels"]["severity"] == "warning"


def test_extra_labels_get_names_that_every_alertmanager_takes_and_never_replace_the_identity() -> None:
    extra = {"cost-centre": "9", "2nd": "x", "": "y", "run": "not this", "empty": ""}
    (sent,) = alertmanager_alerts(describe(replace(ALERT, scope="rank:3"), ""), NOW, 30.0, extra)
    labels = sent["labels"]
    assert {name: labels[name] for name in ("cost_centre", "_2nd", "_", "run", "scope")} == {
        "cost_centre": "9",
        "_2nd": "x",
        "_": "y",
        "run": "lstm 7",
        "scope": "rank:3",
    }
    assert "empty" not in labels
    assert all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) for name in labels)
    assert label_name("über") == "_ber"


def test_the_description_says_what_leads_and_how_fast() -> None:
    assert description(describe(ALERT, "")) == (
        "mt/lstm 7: the gradient norm doubles every 14 steps. Since step 800. Led by layer rnn.weight_hh_l0. "
        "Led by rank 3. Doubles every 14.2 steps. Overflows in 300 steps."
    )


def test_the_description_names_the_checkpoint_to_go_back_to_and_the_data_of_the_step() -> None:
    named = {"checkpoint_step": 780, "checkpoint_path": "../runs/780.pt", "data": "rank 3: 17 18"}
    text = description(describe(replace(ALERT, evidence=replace(ALERT.evidence, details=named)), ""))
    assert text.endswith(" Last good checkpoint: step 780, ../runs/780.pt. Data of step 812: rank 3: 17 18.")


def test_every_signature_has_a_summary_and_a_name() -> None:
    assert set(SUMMARIES) == set(Signature)
    assert len({alert_name(each.value) for each in Signature}) == len(Signature)
    assert alert_name("loss_scale_collapse") == "SeismogradLossScaleCollapse"


def test_a_webhook_gets_all_of_it_as_strict_json() -> None:
    body = json.loads(webhook_body(notification(OPENED, "https://s.example")), parse_constant=pytest.fail)
    assert body["version"] == 1
    assert (body["state"], body["cause"], body["at"]) == ("firing", "opened", NOW)
    assert body["evidence"]["value"] == "Infinity"
    assert body["evidence"]["details"] == {"norms": [1.0, "NaN"]}
    assert body["url"] == "https://s.example/runs/mt/lstm%207"


def test_a_name_that_utf_8_cannot_hold_is_still_delivered() -> None:
    hostile = replace(ALERT, key=RunKey("a\udc80", 'b"\n\x00'), reason="\udc80", scope="\ud800")
    note = describe(hostile, "https://s.example")
    assert json.loads(webhook_body(note))["project"] == "a\\udc80"
    (sent,) = alertmanager_alerts(note, NOW, 30.0, {"\udc80": "\udc80"})
    assert json.dumps(sent).encode().decode("ascii")
    assert sent["generatorURL"].startswith("https://s.example/runs/a%5Cudc80/")


def test_the_signature_covers_the_time_and_the_body() -> None:
    expected = hmac.new(b"secret", b"1700000000.{}", hashlib.sha256).hexdigest()
    assert sign("secret", 1_700_000_000, b"{}") == f"t=1700000000,v1={expected}"
    assert sign("secret", 1_700_000_001, b"{}").split("v1=")[1] != expected
