from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.alerts.fleet import (
    FleetPolicy,
    Member,
    incident,
    is_news,
    is_over,
    over,
    scope_of,
    shared_tags,
    tail,
    together,
)
from seismograd_server.model import Alert, AlertState, Evidence, RunKey, Severity, Signature

NOW = 1_000_000.0
POLICY = FleetPolicy()


def member(number: int, **tags: str) -> Member:
    return Member(number, RunKey("mt", f"run-{number}"), frozenset(tags.items()))


def alert(run_id: int, age: float = 0.0, signature: Signature = Signature.RUNAWAY, **changes: object) -> Alert:
    made = Alert(
        alert_id=f"{run_id}-{age}",
        run_id=run_id,
        key=RunKey("mt", f"run-{run_id}"),
        signature=signature,
        scope="",
        severity=Severity.CRITICAL,
        state=AlertState.FIRING,
        since_step=10,
        opened_step=12,
        last_step=12,
        opened_at=NOW - age,
        updated_at=NOW - age,
        resolved_at=None,
        resolution=None,
        evidence=Evidence(),
        reason="because",
        fingerprint="f",
    )
    return replace(made, **changes)  # type: ignore[arg-type] # as the test says


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_the_tail_is_the_share_of_draws_that_have_so_many_marked(
    total: int, draws: int, marked: int, hits: int
) -> None:
    draws, marked = min(draws, total), min(marked, total)
    every = list(itertools.combinations(range(total), draws))
    like_it = [draw for draw in every if sum(each < marked for each in draw) >= hits]
    assert tail(hits, draws, marked, total) == pytest.approx(len(like_it) / len(every))


def test_the_tail_of_a_large_fleet_is_exact() -> None:
    assert tail(5, 5, 5, 1000) == pytest.approx(1 / math.comb(1000, 5))
    assert tail(0, 5, 5, 1000) == 1.0


def test_a_host_that_all_firing_runs_share_and_few_others_is_beyond_chance() -> None:
    firing = [member(number, host="node-3", team="a") for number in range(4)]
    others = [member(number, host=f"node-{number}", team="a") for number in range(10, 40)]
    (found,) = shared_tags(firing, others, 0.05)
    assert (found.name, found.value, found.firing, found.others) == ("host", "node-3", 4, 0)
    assert found.probability == pytest.approx(2 / math.comb(34, 4))  # two tags were tried: host and team


def test_what_every_run_has_is_no_cause() -> None:
    firing, others = ([member(number, image="v7") for number in numbers] for numbers in (range(4), range(10, 30)))
    assert shared_tags(firing, others, 0.05) == ()


def test_where_all_runs_fire_nothing_can_be_told() -> None:
    assert shared_tags([member(number, host="node-3") for number in range(6)], [], 0.05) == ()


def test_the_more_tags_are_tried_the_less_a_coincidence_counts() -> None:
    others = [member(number) for number in range(10, 15)]
    one = [member(number, a="x") for number in range(3)]
    many = [member(number, **{f"tag{each}": "x" for each in range(9)}) for number in range(3)]
    assert shared_tags(one, others, 0.05)
    assert shared_tags(many, others, 0.05) == ()


def test_together_are_runs_that_fire_the_signature_within_the_window_each_once() -> None:
    alerts = [
        alert(1, age=10),
        alert(1, age=5, scope="optimizer:1"),
        alert(2, age=599),
        alert(3, age=601),
        alert(4, severity=Severity.WARNING),
        alert(5, state=AlertState.RESOLVED),
        alert(6, signature=Signature.NONFINITE),
        alert(7, age=-5.0),
    ]
    found = together(alerts, Signature.RUNAWAY, NOW, POLICY)
    assert [each.run_id for each in found] == [2, 1]


def test_an_incident_says_which_runs_and_what_they_share() -> None:
    firing = [member(number, host="node-3") for number in range(4)]
    others = [member(number, host=f"node-{number}") for number in range(10, 40)]
    finding = incident(Signature.RUNAWAY, 12, firing, others, POLICY)
    assert (finding.signature, finding.severity, finding.scope) == (
        Signature.FLEET,
        Severity.CRITICAL,
        "signature:runaway",
    )
    assert finding.reason == (
        "4 runs fired runaway within 10 minutes; they share host = node-3 (4 of 4, of the others 0 of 30, p = 2e-05)"
    )
    assert finding.evidence.details["runs"] == ["mt/run-0", "mt/run-1", "mt/run-2", "mt/run-3"]
    alone = incident(Signature.RUNAWAY, 12, firing, [], POLICY)
    assert alone.reason == "4 runs fired runaway within 10 minutes; they share no tag beyond chance"


@pytest.mark.parametrize(("count", "told", "news"), [(3, 3, False), (4, 3, False), (5, 3, True), (50, 40, False)])
def test_an_incident_is_told_again_when_it_has_grown_by_half(count: int, told: int, news: bool) -> None:
    assert is_news(count, told) is news


def test_an_incident_is_over_when_none_of_its_runs_fires_its_signature() -> None:
    evidence = Evidence(details={"run_ids": [1, 2, 3]})
    carried = alert(1, signature=Signature.FLEET, scope=scope_of(Signature.RUNAWAY), evidence=evidence)
    assert not is_over(carried, [alert(2)])
    assert is_over(carried, [alert(4), alert(2, signature=Signature.NONFINITE), carried])
    assert over(carried).severity is Severity.NONE
