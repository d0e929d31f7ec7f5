from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from seismograd_server.errors import NotFoundError
from seismograd_server.model import (
    AlertState,
    Evidence,
    RankIdentity,
    Resolution,
    RunKey,
    Severity,
    Signature,
    Transition,
)
from seismograd_server.store.alerts import AlertRepository
from seismograd_server.store.database import Database

TransitionMaker = Callable[..., Transition]


@pytest.fixture
def alerts(database: Database, make_identity: Callable[..., RankIdentity]) -> Iterator[AlertRepository]:
    """The repository inside one write transaction, with the runs mt/lstm (1) and asr/gru (2)."""
    with database.begin() as transaction:
        transaction.runs.open_rank(make_identity("lstm"), now=1.0)
        transaction.runs.open_rank(make_identity("gru", project="asr"), now=1.0)
        yield transaction.alerts


def resolved(make_transition: TransitionMaker) -> Transition:
    return make_transition(
        1,
        before=AlertState.FIRING,
        cause="recovered",
        state=AlertState.RESOLVED,
        last_step=200,
        updated_at=90.0,
        resolved_at=90.0,
        resolution=Resolution.RECOVERED,
    )


def test_an_alert_comes_back_as_it_was(alerts: AlertRepository, make_transition: TransitionMaker) -> None:
    evidence = Evidence(value=math.inf, doubling_time_steps=4.0, leading_rank=3, details={"layers": ["a", "bü"]})
    opened = make_transition(1, evidence=evidence, scope="layer:rnn", inhibited_by="nonfinite")

    assert alerts.apply([opened]) == [opened]

    assert alerts.get("a1") == opened.alert
    assert alerts.find(1, Signature.RUNAWAY, "layer:rnn") == opened.alert
    assert alerts.find(1, Signature.RUNAWAY, "") is None
    (event,) = alerts.history("a1")
    assert (event.ordinal, event.before, event.state, event.cause) == (0, None, AlertState.FIRING, "opened")
    assert (event.step, event.at, event.notify, event.evidence) == (100, 50.0, True, evidence)


def test_evidence_that_is_nan_survives(alerts: AlertRepository, make_transition: TransitionMaker) -> None:
    alerts.apply([make_transition(1, evidence=Evidence(value=math.nan))])

    value = alerts.get("a1").evidence.value
    assert value is not None
    assert math.isnan(value)


def test_transitions_make_the_history_of_an_alert(alerts: AlertRepository, make_transition: TransitionMaker) -> None:
    alerts.apply([make_transition(1, severity=Severity.WARNING)])
    alerts.apply([make_transition(1, before=AlertState.FIRING, cause="rose", last_step=120, updated_at=60.0)])
    alerts.apply([resolved(make_transition)])

    assert [(event.ordinal, event.cause, event.severity) for event in alerts.history("a1")] == [
        (0, "opened", Severity.WARNING),
        (1, "rose", Severity.CRITICAL),
        (2, "recovered", Severity.CRITICAL),
    ]
    alert = alerts.get("a1")
    assert (alert.state, alert.resolution, alert.resolved_at) == (AlertState.RESOLVED, Resolution.RECOVERED, 90.0)
    assert alerts.open_for_run(1) == []


def test_a_replay_writes_nothing_twice_and_turns_nothing_back(
    alerts: AlertRepository, make_transition: TransitionMaker
) -> None:
    opened, end = make_transition(1), resolved(make_transition)
    assert alerts.apply([opened, end]) == [opened, end]

    assert alerts.apply([opened, end]) == []

    assert len(alerts.history("a1")) == 2
    assert alerts.get("a1") == end.alert


def test_the_same_condition_later_is_another_alert(alerts: AlertRepository, make_transition: TransitionMaker) -> None:
    later = make_transition(1, alert_id="a2", opened_step=500, last_step=500, updated_at=500.0)
    alerts.apply([make_transition(1), resolved(make_transition), later])

    assert alerts.find(1, Signature.RUNAWAY, "") == later.alert
    assert [alert.alert_id for alert in alerts.open_for_run(1)] == ["a2"]


def test_after_a_rewind_the_alert_that_changed_last_is_found(
    alerts: AlertRepository, make_transition: TransitionMaker
) -> None:
    rewound = make_transition(1, alert_id="a2", opened_step=40, last_step=40, updated_at=500.0)
    alerts.apply([make_transition(1), resolved(make_transition), rewound])

    assert alerts.find(1, Signature.RUNAWAY, "") == rewound.alert


def test_a_resumed_run_may_live_through_the_same_transition_again(
    alerts: AlertRepository, make_transition: TransitionMaker
) -> None:
    alerts.apply([make_transition(1), resolved(make_transition)])
    reopened = make_transition(1, before=AlertState.RESOLVED, cause="reopened", updated_at=300.0)
    again = resolved(make_transition)
    again = replace(again, alert=replace(again.alert, updated_at=400.0, resolved_at=400.0), at=400.0)

    assert alerts.apply([reopened, again]) == [reopened, again]
    assert alerts.get("a1").state is AlertState.RESOLVED


def test_alerts_are_listed_newest_first_in_pages(alerts: AlertRepository, make_transition: TransitionMaker) -> None:
    for number in range(5):
        alerts.apply([make_transition(1, alert_id=f"a{number}", opened_step=number)])
    elsewhere = make_transition(
        2, alert_id="b", key=RunKey("asr", "gru"), state=AlertState.PENDING, signature=Signature.SPIKE
    )
    alerts.apply([elsewhere])

    page = alerts.list(project="mt", run="lstm", limit=2)

    assert [alert.alert_id for alert in page] == ["a4", "a3"]
    assert [alert.alert_id for alert in alerts.list(project="mt", before="a3")] == ["a2", "a1", "a0"]
    assert alerts.list(state=AlertState.PENDING) == [elsewhere.alert]
    assert len(alerts.list()) == 6


def test_an_unknown_alert_is_named(alerts: AlertRepository) -> None:
    for ask in (alerts.get, alerts.history):
        with pytest.raises(NotFoundError, match="there is no alert zzz"):
            ask("zzz")
