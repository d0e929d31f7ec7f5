from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.alerts.identity import alert_id, fingerprint
from seismograd_server.alerts.inhibition import EXPLOSIONS
from seismograd_server.alerts.lifecycle import (
    DEFAULT_POLICY,
    LifecyclePolicy,
    acknowledge,
    advance,
    end_of_run,
    expire,
    judge,
)
from seismograd_server.alerts.silencing import covers
from seismograd_server.alerts.table import TABLE, Event, Stage, Voice
from seismograd_server.model import (
    Alert,
    AlertState,
    Evidence,
    Finding,
    Resolution,
    Run,
    RunKey,
    RunState,
    Severity,
    Signature,
    Silence,
    Transition,
    Verdict,
)

NOW = 1_700_000_000.0
MINUTE = 60.0
HOUR = 3600.0

RUN = Run(
    run_id=7,
    key=RunKey("mt", "lstm-7"),
    state=RunState.RUNNING,
    started_at=NOW - HOUR,
    last_record_at=NOW,
    ended_at=None,
    failure_reason="",
    config_json="",
    tags={},
    framework="",
    strategy="",
    attempts=1,
    world_size=2,
    last_step=100,
    closed_steps=100,
)
FAILED = replace(RUN, state=RunState.FAILED, ended_at=NOW)


def finding(
    step: int,
    severity: Severity = Severity.CRITICAL,
    signature: Signature = Signature.RUNAWAY,
    *,
    scope: str = "",
    value: float = 100.0,
) -> Finding:
    return Finding(
        signature=signature,
        severity=severity,
        scope=scope,
        step=step,
        since_step=step - 3,
        evidence=Evidence(value=value, baseline=1.0),
        reason=f"the norm is {value:g}",
    )


class Alerts:
    """The alerts of one run, as the store would keep them."""

    def __init__(self, policy: LifecyclePolicy = DEFAULT_POLICY) -> None:
        self.policy = policy
        self.stored: dict[str, Alert] = {}
        self.silences: list[Silence] = []

    def give(self, *findings: Finding, now: float = NOW, run: Run = RUN) -> list[Transition]:
        changes = advance(self.open(), self.resolved(), findings, run, now, policy=self.policy, silences=self.silences)
        return self._keep(changes)

    def pass_time(self, now: float, run: Run = RUN) -> list[Transition]:
        return self._keep(expire(self.open(), run, now, self.policy, self.silences))

    def end(self, now: float = NOW, run: Run = RUN) -> list[Transition]:
        return self._keep(end_of_run(self.open(), run, now, self.policy, self.silences))

    def acknowledge(self, alert: Alert, now: float = NOW, run: Run = RUN) -> Transition | None:
        transition = acknowledge(alert, "ada", run, now)
        self._keep([] if transition is None else [transition])
        return transition

    def open(self) -> list[Alert]:
        return [alert for alert in self.stored.values() if alert.state is not AlertState.RESOLVED]

    def resolved(self) -> list[Alert]:
        return [alert for alert in self.stored.values() if alert.state is AlertState.RESOLVED]

    def _keep(self, transitions: Sequence[Transition]) -> list[Transition]:
        self.stored |= {transition.alert.alert_id: transition.alert for transition in transitions}
        return list(transitions)


def causes(transitions: Sequence[Transition]) -> list[str]:
    return [transition.cause for transition in transitions]


def test_every_row_of_the_table_agrees_with_itself() -> None:
    for stage, rows in TABLE.items():
        for event, row in rows.items():
            assert (row.resolution is not None) == (row.after is AlertState.RESOLVED), (stage, event)
            # Only what has been told can be taken back, and only news is told.
            assert (row.voice is Voice.REPLY) == (stage is Stage.FIRING and row.after is AlertState.RESOLVED)
            if row.voice is Voice.ALOUD:
                assert row.after is AlertState.FIRING, (stage, event)
    assert {event for rows in TABLE.values() for event in rows} == set(Event) - {Event.EASED}


def test_no_stage_leads_from_firing_back_to_pending() -> None:
    assert all(row.after is not AlertState.PENDING for row in TABLE[Stage.FIRING].values())


def test_a_critical_finding_fires_at_once_and_is_told() -> None:
    (opened,) = Alerts(LifecyclePolicy(hold_seconds=60)).give(finding(40))
    assert (opened.before, opened.cause, opened.at, opened.notify) == (None, "opened", NOW, True)
    alert = opened.alert
    assert (alert.state, alert.severity) == (AlertState.FIRING, Severity.CRITICAL)
    assert (alert.since_step, alert.opened_step, alert.last_step) == (37, 40, 40)
    assert (alert.opened_at, alert.updated_at, alert.resolved_at, alert.resolution) == (NOW, NOW, None, None)
    assert alert.evidence == Evidence(value=100.0, baseline=1.0)
    assert alert.key == RUN.key


def test_a_warning_fires_at_once_unless_the_policy_asks_it_to_hold() -> None:
    (opened,) = Alerts().give(finding(40, Severity.WARNING))
    assert (opened.alert.state, opened.notify) == (AlertState.FIRING, True)


def test_a_warning_that_must_hold_is_pending_until_it_has_held() -> None:
    alerts = Alerts(LifecyclePolicy(hold_seconds=60))
    (appeared,) = alerts.give(finding(40, Severity.WARNING))
    assert (appeared.alert.state, appeared.cause, appeared.notify) == (AlertState.PENDING, "appeared", False)
    assert alerts.pass_time(NOW + 59) == []
    (held,) = alerts.pass_time(NOW + 60)
    assert (held.alert.state, held.before, held.cause, held.notify) == (
        AlertState.FIRING,
        AlertState.PENDING,
        "held",
        True,
    )


def test_a_pending_alert_that_passes_is_never_told() -> None:
    alerts = Alerts(LifecyclePolicy(hold_seconds=60))
    alerts.give(finding(40, Severity.WARNING))
    (passed,) = alerts.give(finding(44, Severity.NONE), now=NOW + 10)
    assert (passed.cause, passed.notify, passed.alert.resolution) == ("passed", False, Resolution.RECOVERED)


def test_a_pending_alert_that_becomes_critical_does_not_wait_any_longer() -> None:
    alerts = Alerts(LifecyclePolicy(hold_seconds=60))
    alerts.give(finding(40, Severity.WARNING))
    (escalated,) = alerts.give(finding(42), now=NOW + 1)
    assert (escalated.cause, escalated.notify, escalated.severity_before) == ("escalated", True, Severity.WARNING)
    assert escalated.alert.state is AlertState.FIRING


def test_a_second_finding_of_the_same_condition_opens_no_second_alert() -> None:
    alerts = Alerts()
    (opened,) = alerts.give(finding(40))
    (worsened,) = alerts.give(finding(45, value=900.0), now=NOW + 5)
    assert worsened.alert.alert_id == opened.alert.alert_id
    assert (worsened.cause, worsened.notify) == ("worsened", False)
    assert (worsened.alert.evidence.value, worsened.alert.last_step, worsened.alert.opened_step) == (900.0, 45, 40)
    assert worsened.alert.opened_at == NOW


def test_the_same_condition_elsewhere_is_another_alert() -> None:
    opened = Alerts().give(finding(40, scope="rank:0"), finding(40, scope="rank:1"))
    assert causes(opened) == ["opened", "opened"]
    assert len({transition.alert.fingerprint for transition in opened}) == 2


def test_severity_rises_and_is_told_again() -> None:
    alerts = Alerts()
    alerts.give(finding(40, Severity.WARNING))
    (rose,) = alerts.give(finding(41))
    assert (rose.cause, rose.notify) == ("escalated", True)
    assert (rose.severity_before, rose.alert.severity) == (Severity.WARNING, Severity.CRITICAL)


def test_severity_does_not_fall_while_the_alert_fires() -> None:
    alerts = Alerts()
    alerts.give(finding(40))
    assert alerts.give(finding(41, Severity.WARNING)) == []
    assert alerts.open()[0].severity is Severity.CRITICAL


def test_an_acknowledgement_of_a_warning_does_not_cover_what_becomes_critical() -> None:
    alerts = Alerts()
    (opened,) = alerts.give(finding(40, Severity.WARNING))
    alerts.acknowledge(opened.alert)
    (rose,) = alerts.give(finding(41))
    assert (rose.alert.acknowledged_by, rose.alert.acknowledged_at) == ("", None)


def test_a_condition_that_is_over_resolves_its_alert_and_keeps_the_worst_evidence() -> None:
    alerts = Alerts()
    alerts.give(finding(40, value=900.0))
    (recovered,) = alerts.give(finding(60, Severity.NONE, value=1.1), now=NOW + 20)
    assert (recovered.before, recovered.cause, recovered.notify) == (AlertState.FIRING, "recovered", True)
    alert = recovered.alert
    assert (alert.state, alert.resolution, alert.resolved_at) == (
        AlertState.RESOLVED,
        Resolution.RECOVERED,
        NOW + 20,
    )
    assert (alert.evidence.value, alert.reason) == (900.0, "the norm is 900")
    assert alert.severity is Severity.CRITICAL


def test_the_end_of_a_condition_that_never_alerted_is_nothing() -> None:
    assert Alerts().give(finding(60, Severity.NONE)) == []


def test_what_comes_back_within_fifteen_minutes_is_the_same_alert() -> None:
    alerts = Alerts()
    (opened,) = alerts.give(finding(40))
    alerts.acknowledge(opened.alert)
    alerts.give(finding(60, Severity.NONE))
    (reopened,) = alerts.give(finding(80, Severity.WARNING), now=NOW + 15 * MINUTE)
    assert (reopened.before, reopened.cause, reopened.notify) == (AlertState.RESOLVED, "reopened", True)
    alert = reopened.alert
    assert alert.alert_id == opened.alert.alert_id
    assert (alert.state, alert.severity, alert.opened_step, alert.opened_at) == (
        AlertState.FIRING,
        Severity.WARNING,
        40,
        NOW,
    )
    assert (alert.resolved_at, alert.resolution, alert.acknowledged_by) == (None, None, "")


def test_what_comes_back_later_is_another_alert() -> None:
    alerts = Alerts()
    (opened,) = alerts.give(finding(40))
    alerts.give(finding(60, Severity.NONE))
    (again,) = alerts.give(finding(80), now=NOW + 15 * MINUTE + 1)
    assert (again.before, again.cause) == (None, "opened")
    assert again.alert.alert_id != opened.alert.alert_id
    assert again.alert.fingerprint == opened.alert.fingerprint


def test_a_resumed_run_that_explodes_at_the_same_step_reopens_its_alert_however_old() -> None:
    alerts = Alerts()
    (first,) = alerts.give(finding(40))
    alerts.give(finding(60, Severity.NONE))
    alerts.give(finding(80), now=NOW + HOUR)
    alerts.give(finding(90, Severity.NONE), now=NOW + HOUR)
    (again,) = alerts.give(finding(40), now=NOW + 3 * HOUR)
    assert (again.cause, again.alert.alert_id) == ("reopened", first.alert.alert_id)


def test_a_whole_episode_may_come_in_one_block() -> None:
    transitions = Alerts().give(finding(40, Severity.WARNING), finding(42), finding(60, Severity.NONE), finding(70))
    assert causes(transitions) == ["opened", "escalated", "recovered", "reopened"]


def test_findings_after_a_rewind_are_applied_in_the_order_given() -> None:
    transitions = Alerts().give(finding(90), finding(30, Severity.NONE))
    assert causes(transitions) == ["opened", "recovered"]


def test_the_same_finding_again_changes_nothing() -> None:
    alerts = Alerts()
    alerts.give(finding(40))
    assert alerts.give(finding(40), now=NOW + 1) == []


@pytest.mark.parametrize("explosion", [Signature.RUNAWAY, Signature.NONFINITE])
def test_a_critical_explosion_speaks_for_its_own_spike(explosion: Signature) -> None:
    alerts = Alerts()
    # The spike's detector looks first; at one step that must not matter.
    spike, exploded = finding(40, Severity.WARNING, Signature.SPIKE), finding(40, signature=explosion)
    transitions = {each.alert.signature: each for each in alerts.give(spike, exploded)}
    assert transitions[explosion].notify
    assert not transitions[Signature.SPIKE].notify
    assert transitions[Signature.SPIKE].alert.inhibited_by == explosion.value
    (ended,) = alerts.give(finding(50, Severity.NONE, Signature.SPIKE))
    assert not ended.notify, "who has not heard of it must not hear that it is over"


def test_a_spike_that_was_told_before_the_explosion_is_taken_back_aloud() -> None:
    alerts = Alerts()
    (spike,) = alerts.give(finding(40, Severity.WARNING, Signature.SPIKE))
    alerts.give(finding(44))
    (rose,) = alerts.give(finding(45, Severity.CRITICAL, Signature.SPIKE))
    (ended,) = alerts.give(finding(50, Severity.NONE, Signature.SPIKE))
    assert (spike.notify, rose.notify, ended.notify) == (True, False, True)


def test_a_spike_that_grows_worse_after_the_explosion_is_heard() -> None:
    alerts = Alerts()
    alerts.give(finding(40), finding(40, Severity.WARNING, Signature.SPIKE))
    alerts.give(finding(50, Severity.NONE))
    (rose,) = alerts.give(finding(55, Severity.CRITICAL, Signature.SPIKE))
    assert (rose.notify, rose.alert.inhibited_by) == (True, "")


def test_neither_a_warning_nor_another_signature_inhibits_or_is_inhibited() -> None:
    alerts = Alerts()
    alerts.give(finding(40, Severity.WARNING))
    (spike,) = alerts.give(finding(41, Severity.WARNING, Signature.SPIKE))
    alerts.give(finding(42))
    (stalled,) = alerts.give(finding(43, Severity.WARNING, Signature.STALLED))
    assert spike.notify
    assert stalled.notify


@pytest.mark.parametrize("explosion", sorted(EXPLOSIONS))
def test_an_explosion_is_told_of_once_whatever_else_it_does_to_the_run(explosion: Signature) -> None:
    alerts = Alerts()
    others = [finding(42, Severity.WARNING, each) for each in Signature if each not in EXPLOSIONS]
    opened = alerts.give(*others, finding(42, Severity.CRITICAL, explosion))
    heard = {each.alert.signature for each in opened if each.notify}
    assert heard == {explosion, Signature.REPLICA_DESYNC, Signature.STALLED, Signature.FLEET}


def test_a_run_that_ends_while_firing_stays_firing_for_a_day() -> None:
    alerts = Alerts()
    alerts.give(finding(40))
    assert alerts.end(NOW) == []
    assert alerts.pass_time(NOW + 24 * HOUR - 1, FAILED) == []
    (expired,) = alerts.pass_time(NOW + 24 * HOUR, FAILED)
    assert (expired.cause, expired.alert.resolution, expired.notify) == ("expired", Resolution.EXPIRED, True)


def test_an_acknowledgement_lays_the_alert_of_an_ended_run_to_rest() -> None:
    alerts = Alerts()
    (opened,) = alerts.give(finding(40))
    ended = alerts.acknowledge(opened.alert, NOW + 5, FAILED)
    assert ended is not None
    assert (ended.cause, ended.alert.resolution, ended.alert.acknowledged_by) == ("ended", Resolution.ENDED, "ada")


def test_an_alert_that_was_acknowledged_goes_to_rest_with_its_run() -> None:
    alerts = Alerts()
    (opened,) = alerts.give(finding(40))
    seen = alerts.acknowledge(opened.alert, NOW + 5)
    assert seen is not None
    assert (seen.cause, seen.alert.state, seen.notify) == ("acknowledged", AlertState.FIRING, False)
    assert alerts.acknowledge(seen.alert, NOW + 6) is None
    (ended,) = alerts.end(NOW + 10)
    assert (ended.cause, ended.alert.resolution) == ("ended", Resolution.ENDED)


def test_what_is_pending_when_its_run_ends_is_never_told() -> None:
    alerts = Alerts(LifecyclePolicy(hold_seconds=60))
    alerts.give(finding(40, Severity.WARNING))
    (ended,) = alerts.end(NOW + 1)
    assert (ended.cause, ended.notify, ended.alert.resolution) == ("run ended", False, Resolution.ENDED)


def test_a_lost_run_is_judged_by_its_last_record() -> None:
    alerts = Alerts()
    alerts.give(finding(40))
    lost = replace(RUN, state=RunState.LOST, last_record_at=NOW)
    assert alerts.pass_time(NOW + 23 * HOUR, lost) == []
    assert causes(alerts.pass_time(NOW + 24 * HOUR, lost)) == ["expired"]


def test_a_resolved_alert_cannot_be_acknowledged() -> None:
    alerts = Alerts()
    alerts.give(finding(40))
    (recovered,) = alerts.give(finding(60, Severity.NONE))
    assert alerts.acknowledge(recovered.alert) is None


def test_ids_depend_on_nothing_but_what_the_alert_is_about() -> None:
    assert alert_id(7, Signature.RUNAWAY, "", 40) == alert_id(7, Signature.RUNAWAY, "", 40)
    others = {
        alert_id(8, Signature.RUNAWAY, "", 40),
        alert_id(7, Signature.SPIKE, "", 40),
        alert_id(7, Signature.RUNAWAY, "rank:1", 40),
        alert_id(7, Signature.RUNAWAY, "", 41),
    }
    assert alert_id(7, Signature.RUNAWAY, "", 40) not in others
    assert len(others) == 4
    assert fingerprint(RunKey("a", "b/c"), Signature.SPIKE, "") != fingerprint(RunKey("a/b", "c"), Signature.SPIKE, "")
    assert fingerprint(RunKey("a\udc80", "b"), Signature.SPIKE, "")


def silence(until: float = NOW + HOUR, **about: Any) -> Silence:
    return Silence("s1", "ada", "a restart is planned", NOW, until, **about)


def test_a_silenced_alert_opens_and_nobody_is_told_until_the_silence_ends() -> None:
    alerts = Alerts()
    alerts.silences = [silence(run="lstm-*")]
    (opened,) = alerts.give(finding(40))
    assert (opened.cause, opened.notify, opened.alert.state) == ("opened", False, AlertState.FIRING)
    assert (opened.alert.silenced_by, opened.alert.told) == ("s1", Severity.NONE)
    assert alerts.pass_time(NOW + HOUR - 1) == []
    (ended,) = alerts.pass_time(NOW + HOUR)
    assert (ended.cause, ended.notify) == ("silence ended", True)
    assert (ended.alert.silenced_by, ended.alert.told) == ("", Severity.CRITICAL)
    assert alerts.pass_time(NOW + HOUR + 5) == []


def test_the_end_of_a_silence_is_told_of_a_run_that_is_over_too() -> None:
    alerts = Alerts()
    alerts.silences = [silence()]
    alerts.give(finding(40))
    assert alerts.end(NOW + 1) == []
    (ended,) = alerts.pass_time(NOW + HOUR, FAILED)
    assert (ended.cause, ended.notify, ended.alert.state) == ("silence ended", True, AlertState.FIRING)


def test_what_is_over_before_its_silence_ends_is_never_told() -> None:
    alerts = Alerts()
    alerts.silences = [silence(project="mt")]
    alerts.give(finding(40))
    (recovered,) = alerts.give(finding(60, Severity.NONE), now=NOW + 60)
    assert (recovered.cause, recovered.notify) == ("recovered", False)
    assert alerts.pass_time(NOW + HOUR) == []


def test_who_was_told_before_the_silence_hears_of_the_end_and_of_nothing_between() -> None:
    alerts = Alerts()
    alerts.give(finding(40, Severity.WARNING))
    alerts.silences = [silence(signature=Signature.RUNAWAY)]
    (rose,) = alerts.give(finding(44), now=NOW + 1)
    assert (rose.cause, rose.notify, rose.alert.severity) == ("escalated", False, Severity.CRITICAL)
    assert (rose.alert.told, rose.alert.silenced_by) == (Severity.WARNING, "s1")
    (recovered,) = alerts.give(finding(60, Severity.NONE), now=NOW + 60)
    assert (recovered.notify, recovered.told_before) == (True, Severity.WARNING)


def test_what_grew_during_a_silence_is_told_when_it_ends() -> None:
    alerts = Alerts()
    alerts.give(finding(40, Severity.WARNING))
    alerts.silences = [silence()]
    alerts.give(finding(44), now=NOW + 1)
    (ended,) = alerts.pass_time(NOW + HOUR)
    assert (ended.notify, ended.told_before, ended.alert.told) == (True, Severity.WARNING, Severity.CRITICAL)


def test_somebody_who_is_at_it_already_is_not_told_when_a_silence_ends() -> None:
    alerts = Alerts()
    alerts.silences = [silence()]
    (opened,) = alerts.give(finding(40))
    acknowledged = alerts.acknowledge(opened.alert, NOW + 5)
    assert acknowledged is not None
    assert (acknowledged.author, acknowledged.cause) == ("ada", "acknowledged")
    (ended,) = alerts.pass_time(NOW + HOUR)
    assert (ended.cause, ended.notify, ended.alert.silenced_by) == ("silence ended", False, "")


def test_an_alert_that_comes_back_under_a_silence_is_not_told_again() -> None:
    alerts = Alerts()
    alerts.give(finding(40))
    alerts.give(finding(60, Severity.NONE), now=NOW + MINUTE)
    alerts.silences = [silence()]
    (reopened,) = alerts.give(finding(70), now=NOW + 2 * MINUTE)
    assert (reopened.cause, reopened.notify, reopened.alert.told) == ("reopened", False, Severity.NONE)


@pytest.mark.parametrize(
    ("about", "covered"),
    [
        ({"project": "mt"}, True),
        ({"project": "other"}, False),
        ({"run": "lstm-7"}, True),
        ({"run": "lstm-?"}, True),
        ({"run": "LSTM-*"}, False),
        ({"run": "lstm"}, False),
        ({"signature": Signature.SPIKE}, False),
        ({"project": "mt", "run": "*-7", "signature": Signature.RUNAWAY}, True),
        ({"project": "mt", "run": "*-8", "signature": Signature.RUNAWAY}, False),
    ],
)
def test_a_silence_covers_what_fits_all_that_it_says(about: dict[str, Any], covered: bool) -> None:
    alerts = Alerts()
    alerts.silences = [silence(**about)]
    (opened,) = alerts.give(finding(40))
    assert opened.notify is not covered


def test_silencing_a_run_does_not_silence_the_incident_of_many() -> None:
    (opened,) = Alerts().give(finding(40, signature=Signature.FLEET))
    assert not covers(silence(run="lstm-7"), opened.alert)
    assert covers(silence(run="lstm-7", signature=Signature.FLEET), opened.alert)
    assert covers(silence(project="mt"), opened.alert)


def test_a_verdict_is_an_event_that_changes_nothing_of_the_condition() -> None:
    alerts = Alerts()
    (opened,) = alerts.give(finding(40))
    wrong = judge(opened.alert, Verdict.WRONG, "ada", NOW + 9, "a planned restart")
    assert wrong is not None
    assert (wrong.cause, wrong.author, wrong.note, wrong.notify) == ("called wrong", "ada", "a planned restart", False)
    assert replace(wrong.alert, verdict=None) == opened.alert
    assert judge(wrong.alert, Verdict.WRONG, "bob", NOW + 10) is None
    right = judge(wrong.alert, Verdict.RIGHT, "bob", NOW + 11)
    assert right is not None
    assert right.alert.verdict is Verdict.RIGHT


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Severity.NONE, Severity.WARNING, Severity.CRITICAL]),
            st.sampled_from([Signature.RUNAWAY, Signature.SPIKE]),
            st.floats(0.0, 600.0),
            st.booleans(),
        ),
        max_size=25,
    )
)
def test_people_always_know_what_they_have_been_told(
    story: list[tuple[Severity, Signature, float, bool]],
) -> None:
    """Whoever follows the notifications alone holds what `told` says, whatever explosions and silences speak over."""
    alerts, heard, now = Alerts(), dict[str, Severity](), NOW
    for step, (severity, signature, wait, silenced) in enumerate(story):
        now += wait
        alerts.silences = [Silence("s", "ada", "", now, now + 60.0)] if silenced else []
        for change in [*alerts.give(finding(step, severity, signature), now=now), *alerts.pass_time(now + 1)]:
            known = heard.get(change.alert.alert_id, Severity.NONE)
            if change.alert.state is AlertState.FIRING:
                assert not change.notify or change.alert.severity > known
                heard[change.alert.alert_id] = change.alert.severity if change.notify else known
                assert heard[change.alert.alert_id] is change.alert.told
            elif change.alert.state is AlertState.RESOLVED:
                assert change.notify is (known > Severity.NONE)
                heard.pop(change.alert.alert_id, None)
