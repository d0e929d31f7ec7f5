"""The demo's judgement: it must not call a failure a success."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from seismograd_server.demo.picture import Failure, Picture, SeenAlert, alert_of, failure_of, series_of
from seismograd_server.demo.scenarios import HEALTHY_STEPS, SCENARIOS
from seismograd_server.demo.verdict import judge

STEPS = tuple(range(HEALTHY_STEPS))
HEALTHY = Picture("lstm-1-healthy", "finished", STEPS, (0.2,) * HEALTHY_STEPS, (2.0,) * HEALTHY_STEPS)
RUNAWAY = SeenAlert("a", "runaway", "critical", 3, 3, "grows", leading_rank=1, leading_layer="head.weight")
PUSHED = Picture("lstm-1-pushed", "failed", (0, 1, 2, 3, 4), (1.0,) * 5, (4.0, 2.0, 2.5, 9.0, 21.0), (RUNAWAY,))


def picture(*losses: float | None) -> Picture:
    return Picture("run", steps=tuple(range(len(losses))), norms=(1.0,) * len(losses), losses=losses)


def test_an_alert_before_the_failure_and_a_silent_twin_are_what_was_promised() -> None:
    verdict = judge(SCENARIOS["lstm"], HEALTHY, PUSHED)
    assert verdict.passed
    assert verdict.failure is not None
    assert (verdict.failure.step, verdict.lead_steps) == (4, 1)


@pytest.mark.parametrize("step", [4, 5])
def test_an_alert_at_the_failure_or_later_is_too_late(step: int) -> None:
    late = replace(PUSHED, alerts=(replace(RUNAWAY, critical_step=step),))
    assert judge(SCENARIOS["lstm"], HEALTHY, late).problems == (
        f"the runaway was critical at step {step}, not before the failure at step 4",
    )


def test_a_warning_is_not_enough() -> None:
    warned = replace(PUSHED, alerts=(replace(RUNAWAY, severity="warning", critical_step=None),))
    assert judge(SCENARIOS["lstm"], HEALTHY, warned).problems == (
        "the pushed run had no critical runaway; its alerts: warning runaway at step 3",
    )


def test_another_signature_is_not_the_expected_one() -> None:
    other = replace(PUSHED, alerts=(replace(RUNAWAY, signature="nonfinite"),))
    assert not judge(SCENARIOS["lstm"], HEALTHY, other).passed


def test_a_run_that_survives_its_push_is_a_problem() -> None:
    survived = replace(PUSHED, losses=(4.0, 2.0, 2.5, 9.0, 2.0))
    assert "did not fail" in judge(SCENARIOS["lstm"], HEALTHY, survived).problems[0]


def test_any_alert_of_the_healthy_twin_is_a_problem_even_one_that_is_over() -> None:
    nervous = replace(HEALTHY, alerts=(replace(RUNAWAY, signature="spike", severity="warning", critical_step=None),))
    assert judge(SCENARIOS["lstm"], nervous, PUSHED).problems == (
        "the healthy twin had a warning spike at step 3: grows",
    )


def test_a_healthy_twin_of_which_steps_are_missing_is_a_problem() -> None:
    short = replace(HEALTHY, steps=STEPS[:-1], norms=HEALTHY.norms[:-1], losses=HEALTHY.losses[:-1])
    assert judge(SCENARIOS["lstm"], short, PUSHED).problems == (
        f"the server has {HEALTHY_STEPS - 1} of the healthy twin's {HEALTHY_STEPS} steps",
    )


@pytest.mark.parametrize(("named", "shown"), [(0, "rank 0"), (None, "no rank")])
def test_the_rank_to_blame_must_be_named(named: int | None, shown: str) -> None:
    wrong = replace(PUSHED, alerts=(replace(RUNAWAY, leading_rank=named),))
    assert judge(SCENARIOS["rank-fault"], HEALTHY, PUSHED).passed
    assert judge(SCENARIOS["rank-fault"], HEALTHY, wrong).problems == (
        f"the runaway names {shown}, but rank 1 is to blame",
    )


def test_the_failure_is_the_first_loss_that_is_not_finite_or_ten_times_the_best() -> None:
    assert failure_of(picture(3.0, 2.0, 20.0, 19.0)) is None
    assert failure_of(picture(3.0, 2.0, 20.1, math.nan)) == Failure(2, "the loss is 20.1, ten times its best of 2")
    assert failure_of(picture(3.0, None, math.inf)) == Failure(2, "the loss is inf")


def test_a_series_of_the_api_keeps_what_is_not_finite_apart_from_what_is_not_known() -> None:
    read = series_of({"series": {"step": [0, 1, 2], "grad_norm": [1, None, 2.5], "loss": ["NaN", None, "-Infinity"]}})
    assert read["steps"] == (0, 1, 2)
    assert read["norms"][0] == 1.0
    assert math.isnan(read["norms"][1])
    assert math.isnan(read["losses"][0])
    assert read["losses"][1:] == (None, -math.inf)


def test_an_alert_is_told_as_it_was_when_it_became_critical() -> None:
    history = [
        {"step": 7, "severity": "warning", "reason": "a spike"},
        {"step": 9, "severity": "critical", "reason": "does not come back"},
        {"step": 30, "severity": "critical", "reason": "worse"},
    ]
    answer: dict[str, Any] = {
        "alert_id": "a",
        "signature": "spike",
        "severity": "critical",
        "opened_step": 7,
        "reason": "worse",
        "evidence": {"leading_rank": 1, "leading_layer": None},
        "history": history,
        "inhibited_by": "",
    }
    seen = alert_of(answer)
    assert (seen.opened_step, seen.critical_step, seen.reason) == (7, 9, "does not come back")
