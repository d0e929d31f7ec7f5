"""What alerts ask for by themselves, and whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.alerts.asking import CapturePolicy, Policy, Wanted, capture_wanted, ranks_to_ask, wanted
from seismograd_server.model import (
    BY_ALERT,
    Addressee,
    Alert,
    AlertState,
    AskedDirective,
    Catalog,
    Directive,
    DirectiveKind,
    Evidence,
    Parameter,
    RunKey,
    Severity,
    Signature,
    Transition,
)

NOW = 10_000.0
POLICY = CapturePolicy(steps_before=10, steps_after=20, steps_an_hour=100)


def fired(step: int, severity: Severity = Severity.CRITICAL, rank: int | None = None, **changes: object) -> Transition:
    alert = Alert(
        alert_id=f"alert-{step}",
        run_id=1,
        key=RunKey("mt", "lstm"),
        signature=Signature.RUNAWAY,
        scope="",
        severity=severity,
        state=AlertState.FIRING,
        since_step=step - 3,
        opened_step=step,
        last_step=step,
        opened_at=NOW,
        updated_at=NOW,
        resolved_at=None,
        resolution=None,
        evidence=Evidence(leading_rank=rank),
        reason="it doubles",
        fingerprint="f",
    )
    before = changes.pop("before", None)
    assert before is None or isinstance(before, AlertState)
    earlier = changes.pop("severity_before", Severity.NONE)
    assert isinstance(earlier, Severity)
    known = replace(alert, **changes)  # type: ignore[arg-type]  # fields by name
    return Transition(known, before, "opened", NOW, notify=True, severity_before=earlier, told_before=earlier)


def capture(first: int, last: int, ranks: Sequence[int] = (0,), asked_at: float = NOW) -> AskedDirective:
    directive = Directive(
        f"d{first}",
        1,
        DirectiveKind.CAPTURE_MORE,
        "seismograd",
        asked_at,
        asked_at + 3600.0,
        first_step=first,
        last_step=last,
    )
    return AskedDirective(directive, tuple(Addressee(rank + 1, rank) for rank in ranks))


def window(transitions: Sequence[Transition], *asked: AskedDirective, policy: CapturePolicy = POLICY) -> object:
    wanted = capture_wanted(transitions, asked, policy, NOW)
    return None if wanted is None else (wanted.alert.alert_id, wanted.first_step, wanted.last_step)


@pytest.mark.parametrize("severity", [Severity.WARNING, Severity.CRITICAL])
def test_an_alert_that_begins_to_fire_asks_for_the_steps_around_it(severity: Severity) -> None:
    assert window([fired(100, severity)]) == ("alert-100", 90, 120)


def test_what_is_informative_pending_resolved_or_known_asks_for_nothing() -> None:
    assert window([fired(100, Severity.INFO)]) is None
    assert window([fired(100, state=AlertState.PENDING)]) is None
    assert window([fired(100, state=AlertState.RESOLVED, before=AlertState.FIRING)]) is None
    known = fired(100, before=AlertState.FIRING, severity_before=Severity.WARNING)
    assert window([known]) is None
    assert window([fired(100)], policy=replace(POLICY, automatic=False)) is None
    assert window([]) is None


def test_an_alert_that_becomes_grave_asks() -> None:
    assert window([fired(100, before=AlertState.FIRING, severity_before=Severity.INFO)]) == ("alert-100", 90, 120)


def test_several_alerts_of_one_moment_ask_together_and_the_gravest_leads() -> None:
    together = [fired(100, Severity.WARNING), fired(106), fired(104)]
    assert window(together) == ("alert-104", 90, 126)


def test_an_alert_inside_a_window_extends_it_once_half_of_its_own_would_be_missing() -> None:
    assert window([fired(110)], capture(90, 120)) is None
    assert window([fired(111)], capture(90, 120)) == ("alert-111", 101, 131)


def test_a_rank_that_leads_and_was_not_asked_is_asked() -> None:
    assert window([fired(105, rank=3)], capture(90, 120, ranks=[0])) == ("alert-105", 95, 125)
    assert window([fired(105, rank=3)], capture(90, 120, ranks=[0, 3])) is None


def test_a_run_is_asked_for_so_many_steps_an_hour_and_no_more() -> None:
    asked = [capture(first, first + 24) for first in (0, 100, 200)]
    assert window([fired(310)], *asked) is None
    assert window([fired(215)], *asked) == ("alert-215", 205, 235), "an extension costs only what is new"
    old = [capture(first, first + 24, asked_at=NOW - 3601.0) for first in (0, 100, 200)]
    assert window([fired(310)], *old) == ("alert-310", 300, 330)


@given(
    steps=st.lists(st.integers(0, 400), min_size=1, max_size=40),
    before=st.integers(0, 30),
    after=st.integers(0, 30),
    hourly=st.integers(0, 300),
)
def test_whatever_fires_the_steps_of_an_hour_are_bounded_and_every_fired_step_is_covered_or_refused_for_it(
    steps: list[int], before: int, after: int, hourly: int
) -> None:
    policy = CapturePolicy(steps_before=before, steps_after=after, steps_an_hour=hourly)
    asked: list[AskedDirective] = []
    covered: set[int] = set()
    for step in sorted(steps):
        wanted = capture_wanted([fired(step)], asked, policy, NOW)
        if wanted is not None:
            asked.append(capture(wanted.first_step, wanted.last_step))
            covered |= set(range(wanted.first_step, wanted.last_step + 1))
        elif step not in covered:
            more = set(range(step - before, step + after + 1))
            assert len(covered | more) > hourly
        assert len(covered) <= max(hourly, 0)


def catalog(*pieces: tuple[str, int, int], replica: int = 0) -> list[Catalog]:
    parameters = [
        Parameter(name, (8,), 8, elements, "float32", "Linear", 0, shard, 2, replica, 2)
        for name, shard, elements in pieces
    ]
    return [Catalog(0, 0, tuple(parameters))]


def test_one_replica_of_every_piece_is_asked_and_whoever_leads_before_it() -> None:
    whole = [("a", 0, 8), ("b", 0, 8)]
    replicas = {rank: catalog(*whole, replica=rank) for rank in range(4)}
    assert ranks_to_ask(replicas, None, 64) == [0]
    assert ranks_to_ask(replicas, 2, 64) == [2, 0]
    assert ranks_to_ask(replicas, 9, 64) == [0], "a rank that cannot be asked"
    shards = {
        0: catalog(("a", 0, 4)),
        1: catalog(("a", 1, 4)),
        2: catalog(("a", 0, 4), replica=1),
        3: catalog(("a", 1, 4), replica=1),
    }
    assert ranks_to_ask(shards, 3, 64) == [3, 0, 1]
    assert ranks_to_ask(shards, None, 1) == [0]
    assert ranks_to_ask({5: []}, None, 64) == []


def test_an_empty_shard_covers_nothing() -> None:
    assert ranks_to_ask({0: catalog(("a", 0, 0)), 1: catalog(("a", 0, 8), replica=1)}, None, 64) == [1]


EVERYTHING = (DirectiveKind.CAPTURE_MORE, DirectiveKind.CHECKPOINT, DirectiveKind.STOP)
ON_RUNAWAY = Policy(frozenset({Signature.RUNAWAY}), EVERYTHING)


def once_asked(kind: DirectiveKind, asked_at: float = NOW, by: str = BY_ALERT) -> AskedDirective:
    return AskedDirective(Directive("d", 1, kind, by, asked_at, asked_at + 60.0), (Addressee(0, 0),))


def ask(
    *transitions: Transition,
    asked: Sequence[AskedDirective] = (),
    policies: Sequence[Policy] = (ON_RUNAWAY,),
    ranks: Sequence[int] = (0, 1, 2),
) -> list[Wanted]:
    return wanted(transitions, asked, POLICY, policies, NOW, ranks=ranks)


def kinds(found: Sequence[Wanted]) -> list[DirectiveKind]:
    return [each.kind for each in found]


def test_without_a_policy_nothing_but_the_recorder_is_asked_for() -> None:
    (found,) = ask(fired(50), policies=())
    assert (found.kind, found.by_policy) == (DirectiveKind.CAPTURE_MORE, False)


def test_a_policy_asks_for_what_it_says_in_its_order() -> None:
    found = ask(fired(50))
    assert kinds(found) == list(EVERYTHING)
    assert all(each.by_policy for each in found)
    assert (found[0].first_step, found[0].last_step) == (40, 70)
    saved_first = Policy(frozenset({Signature.RUNAWAY}), (DirectiveKind.STOP, DirectiveKind.CHECKPOINT))
    assert kinds(ask(fired(50), policies=[saved_first]))[:2] == [DirectiveKind.STOP, DirectiveKind.CHECKPOINT]


@pytest.mark.parametrize(
    "change",
    [
        fired(50, Severity.WARNING),
        fired(50, signature=Signature.SPIKE),
        fired(50, state=AlertState.RESOLVED),
        fired(50, before=AlertState.FIRING, severity_before=Severity.CRITICAL),
        replace(fired(50), notify=False),
    ],
)
def test_what_is_milder_other_known_or_untold_asks_for_no_more_than_usual(change: Transition) -> None:
    assert not [each for each in ask(change) if each.by_policy]


def test_what_an_incident_tells_of_asks_what_the_policies_say_and_once() -> None:
    spoken_for = replace(fired(50, inhibited_by="fleet"), notify=False)
    assert kinds(ask(spoken_for)) == list(EVERYTHING)
    assert ask(spoken_for, policies=()) == []
    worse = fired(51, inhibited_by="fleet", before=AlertState.FIRING, severity_before=Severity.CRITICAL)
    assert ask(replace(worse, notify=False)) == []


def test_an_alert_that_rises_to_the_severity_asks_then() -> None:
    rose = fired(50, before=AlertState.FIRING, severity_before=Severity.WARNING)
    assert DirectiveKind.STOP in kinds(ask(rose))


def test_each_kind_is_asked_so_often_an_hour_and_what_people_ask_does_not_count() -> None:
    twice = [once_asked(DirectiveKind.STOP), once_asked(DirectiveKind.STOP, NOW - 3599.0)]
    assert DirectiveKind.STOP not in kinds(ask(fired(50), asked=twice))
    assert DirectiveKind.CHECKPOINT in kinds(ask(fired(50), asked=twice))
    assert DirectiveKind.STOP in kinds(ask(fired(50), asked=[twice[0], once_asked(DirectiveKind.STOP, NOW - 3600.0)]))
    assert DirectiveKind.STOP in kinds(ask(fired(50), asked=[twice[0], once_asked(DirectiveKind.STOP, by="Ada")]))


def test_a_capture_of_some_ranks_is_no_capture_of_all() -> None:
    some, everyone = capture(30, 90, ranks=[0]), capture(30, 90, ranks=[0, 1, 2])
    assert DirectiveKind.CAPTURE_MORE in kinds(ask(fired(50), asked=[some]))
    assert DirectiveKind.CAPTURE_MORE not in kinds(ask(fired(50), asked=[everyone]))


def test_a_policy_captures_within_the_budget_of_steps_too() -> None:
    spent = capture(1000, 1090, ranks=[0, 1, 2])
    assert DirectiveKind.CAPTURE_MORE not in kinds(ask(fired(50), asked=[spent]))
