"""The words in which people are told, and what is said of those that cannot be used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seismograd_server.errors import ConfigError, PermanentDeliveryError
from seismograd_server.model import AlertState, Signature, Transition
from seismograd_server.notify.payloads import notification
from seismograd_server.notify.templates import Words
from tests.server.notify.test_payloads import ALERT, NOW, RESOLVED

FIRES = notification(Transition(ALERT, None, "opened", NOW, notify=True), "https://s.example")
OVER = notification(Transition(RESOLVED, AlertState.FIRING, "recovered", NOW + 60, notify=True), "")


def test_the_shipped_words_say_what_where_and_how_fast() -> None:
    words = Words()
    assert words.title(FIRES) == "critical: The gradient norm is running away (mt/lstm 7)"
    assert words.title(OVER) == "resolved: The gradient norm is running away (mt/lstm 7)"
    assert words.body(FIRES).startswith("mt/lstm 7: the gradient norm doubles every 14 steps. Since step 800.")
    assert words.body(FIRES).endswith("\nhttps://s.example/runs/mt/lstm%207")


def test_the_shipped_words_lead_to_the_runbook_while_there_is_something_to_do() -> None:
    words, lead = Words(), "\nwhat to do: https://docs.example/SeismogradRunaway.md"
    assert words.body(FIRES | {"runbook_url": "https://docs.example/SeismogradRunaway.md"}).endswith(lead)
    assert "what to do" not in words.body(OVER | {"runbook_url": "https://docs.example/SeismogradRunaway.md"})
    assert words.body({name: value for name, value in FIRES.items() if name != "runbook_url"}) == words.body(FIRES)


@pytest.mark.parametrize("signature", list(Signature))
def test_there_are_words_for_every_signature(signature: Signature) -> None:
    note = notification(Transition(replace(ALERT, signature=signature), None, "opened", NOW, notify=True), "")
    assert Words().title(note)
    assert Words().body(note)


def test_own_words_see_every_field_of_a_notification() -> None:
    words = Words("{{ alertname }}|{{ severity | upper }}|{{ evidence.leading_layer }}", "{{ notification_id }}")
    assert words.title(FIRES) == "SeismogradRunaway|CRITICAL|rnn.weight_hh_l0"
    assert words.body(FIRES) == FIRES["notification_id"]


def test_what_is_too_long_is_shortened_and_a_title_is_one_line() -> None:
    words = Words("{{ 'x\n' * 500 }}", "{{ 'y' * 9000 }}")
    assert len(words.title(FIRES)) <= 250
    assert "\n" not in words.title(FIRES)
    assert len(words.body(FIRES)) <= 4000


@pytest.mark.parametrize(
    ("title", "body", "complaint"),
    [
        ("{{ severty }}", "", "notify.templates.title: severty is unknown: did you mean severity?"),
        ("{{ project", "", "notify.templates.title: line 1: unexpected end of template"),
        ("", "fine\n{% if %}", "notify.templates.body: line 2: "),
        ("", "a\nb\n{{ evidence.valu + 1 }}", "notify.templates.body: line 3: UndefinedError: "),
        ("", "{{ project | nothing }}", "notify.templates.body: line 1: No filter named"),
        ("", "a\n{{ evidence.value + 1 }}", "notify.templates.body: line 2: TypeError: "),
        ("", "{{ ''.__class__.__mro__ }}", "notify.templates.body: line 1: SecurityError: "),
        ("", "{{ range(1000000000) | list }}", "notify.templates.body: line 1: OverflowError: "),
    ],
)
def test_a_template_that_is_wrong_is_refused_with_its_line(title: str, body: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Words(title, body)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_template_that_fails_on_one_notification_costs_that_one_alone() -> None:
    words = Words(body="{{ evidence.details['norms'][0] if project == 'mt' and alert_id == 'abc' else 'fine' }}")
    empty = FIRES | {"evidence": FIRES["evidence"] | {"details": {}}}
    with pytest.raises(PermanentDeliveryError, match="its template fails"):
        words.body(empty)
    assert words.body(FIRES)
