from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.detection.scoring import Alarm, Labelled, score, verdict


def run(run_id: str, label: str, onset: int = -1, failure: int = -1) -> Labelled:
    return Labelled(run_id, "family", "", label, onset, failure)


def critical(*steps: int, run_id: str = "a") -> list[Alarm]:
    return [Alarm(run_id, step, "critical") for step in steps]


EXPLODING = run("a", "exploding", onset=100, failure=130)


@pytest.mark.parametrize(
    ("steps", "recall", "clean", "lead"),
    [
        ([], 0.0, 0.0, None),
        ([89], 0.0, 0.0, None),
        ([90], 1.0, 1.0, 40),
        ([110, 120], 1.0, 1.0, 20),
        ([130], 1.0, 1.0, 0),
        ([131], 0.0, 0.0, None),
        ([20, 110], 1.0, 0.0, 20),
    ],
)
def test_an_alert_counts_from_ten_steps_before_the_onset_to_the_failure(
    steps: list[int], recall: float, clean: float, lead: float | None
) -> None:
    found = score([EXPLODING], critical(*steps))
    assert (found.recall, found.clean, found.lead) == (recall, clean, lead)
    assert found.delay == (None if lead is None else 30 - lead)


def test_any_critical_alert_on_a_healthy_or_vanishing_run_is_false_and_a_warning_is_not() -> None:
    runs = [run("h", "healthy"), run("v", "vanishing"), run("w", "healthy"), run("q", "healthy")]
    alarms = [*critical(5, 6, run_id="h"), *critical(7, run_id="v"), Alarm("w", 3, "warning")]
    found = score(runs, alarms)
    assert (found.false_alarms, found.healthy_warned) == (0.5, 0.25)
    assert math.isnan(found.recall)


def test_spikes_are_counted_apart_and_ambiguous_runs_not_at_all() -> None:
    runs = [run("s", "spike", 50), run("t", "spike", 50), run("u", "ambiguous", 50)]
    found = score(runs, [Alarm("s", 50, "warning"), *critical(51, run_id="t"), *critical(51, run_id="u")])
    assert (found.on_spikes, found.spikes_warned) == (0.5, 0.5)
    assert math.isnan(found.false_alarms)


def test_a_run_that_is_judged_wrongly_is_told_how() -> None:
    assert verdict(EXPLODING, critical(100)) == ""
    assert verdict(EXPLODING, critical()) == "missed"
    assert verdict(EXPLODING, critical(20, 110)) == "early"
    assert verdict(run("a", "healthy"), critical(5)) == "false"
    assert verdict(run("a", "spike"), critical(5)) == "on a spike"
    assert verdict(run("a", "ambiguous"), critical(5)) == ""


labelled = st.builds(
    lambda label, onset, length: run("", label, onset, onset + length),
    st.sampled_from(["exploding", "healthy", "spike", "vanishing", "ambiguous"]),
    st.integers(0, 40),
    st.integers(0, 20),
)
alarms_of_one = st.lists(st.tuples(st.integers(0, 70), st.sampled_from(["critical", "warning"])), max_size=4)


@given(st.lists(st.tuples(labelled, alarms_of_one), max_size=6))
def test_the_score_is_what_counting_by_hand_gives(drawn: list[tuple[Labelled, list[tuple[int, str]]]]) -> None:
    runs, alarms, hits, clean, wrong = [], [], 0, 0, 0
    for number, (one, said) in enumerate(drawn):
        named = run(str(number), one.label, one.onset_step, one.failure_step)
        runs.append(named)
        alarms += [Alarm(named.run_id, step, severity) for step, severity in said]
        steps = {step for step, severity in said if severity == "critical"}
        hit = any(step in steps for step in range(named.onset_step - 10, named.failure_step + 1))
        hits += hit and one.label == "exploding"
        clean += hit and one.label == "exploding" and not any(step in steps for step in range(named.onset_step - 10))
        wrong += bool(steps) and one.label in {"healthy", "vanishing"}
    found = score(runs, alarms)
    exploding = [each for each in runs if each.label == "exploding"]
    calm = [each for each in runs if each.label in {"healthy", "vanishing"}]
    if exploding:
        assert (found.recall, found.clean) == (hits / len(exploding), clean / len(exploding))
    if calm:
        assert found.false_alarms == wrong / len(calm)
