from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.alerts.lifecycle import advance
from seismograd_server.detect.tally import fold, from_json, to_json, window_max
from seismograd_server.model import (
    ClosedBlock,
    Evidence,
    Finding,
    Layout,
    Quantity,
    RecordFlag,
    ReplicaGap,
    Run,
    RunKey,
    RunState,
    Severity,
    Signature,
    Tally,
)

LAYOUT = Layout(
    world_size=2,
    names=("a", "b"),
    module_types=("Linear", "Linear"),
    depths=(0, 1),
    numels=(4, 4),
    dtypes=("float32", "float32"),
)
# The start of a minute.
MINUTE_0 = 1_700_000_040.0


def block(count: int, **columns: Any) -> ClosedBlock:
    unknown = np.full(count, np.nan)
    values: dict[str, Any] = {
        "layout": LAYOUT,
        "attempt": 1,
        "branch": 0,
        "steps": np.arange(count, dtype=np.int64),
        "times": MINUTE_0 + np.arange(count, dtype=np.float64),
        "ranks_present": np.ones((count, 2), dtype=np.bool_),
        "global_norm": np.ones(count),
        "layer_norms": np.ones((count, 2), dtype=np.float32),
        "nonfinite": np.zeros((count, 3), dtype=np.int64),
        "nonfinite_layers": (),
        "inexact": np.zeros(count, dtype=np.bool_),
        "sources": np.ones(count, dtype=np.uint8),
        "flags": np.zeros(count, dtype=np.uint16),
        "loss": np.zeros(count),
        "loss_known": np.zeros(count, dtype=np.bool_),
        "rank_loss": np.zeros((count, 2)),
        "rank_loss_known": np.zeros((count, 2), dtype=np.bool_),
        "rank_norm": np.full((count, 2), np.nan),
        "learning_rate": unknown,
        "loss_scale": unknown,
        "clip_threshold": unknown,
        "clip_coefficient": unknown,
        "step_seconds": unknown,
        "weight_norms": np.full((count, 2), np.nan, dtype=np.float32),
        "update_norms": np.full((count, 2), np.nan, dtype=np.float32),
    }
    return ClosedBlock(**{**values, **columns})


def folded(given_block: ClosedBlock, tally: Tally = Tally(), baseline: float = math.nan) -> Tally:  # noqa: B008 (frozen)
    return fold(tally, given_block, np.full(given_block.count, baseline))


def test_gauges_show_the_latest_known_value() -> None:
    tally = folded(
        block(
            3,
            steps=np.array([7, 8, 9]),
            global_norm=np.array([1.0, 2.0, np.nan]),
            loss=np.array([0.5, 0.25, 0.0]),
            loss_known=np.array([True, True, False]),
            learning_rate=np.array([0.1, np.nan, np.nan]),
            loss_scale=np.array([1024.0, 512.0, np.nan]),
        ),
        baseline=1.5,
    )
    assert (tally.step, tally.steps) == (9, 3)
    assert (tally.grad_norm, tally.loss, tally.learning_rate, tally.loss_scale) == (2.0, 0.25, 0.1, 512.0)
    assert tally.grad_norm_baseline == 1.5
    assert tally.grad_norm_max is None


def test_what_a_block_does_not_tell_stays_as_it_was() -> None:
    before = Tally(
        grad_norm=3.0, loss=1.0, learning_rate=0.1, loss_scale=2.0, update_ratio=0.01, grad_norm_baseline=2.0
    )
    tally = folded(block(1, global_norm=np.array([np.nan])), before)
    assert replace(tally, step=None, steps=0, ranks_reporting=0) == before


def test_a_loss_that_is_not_a_number_is_shown_as_such() -> None:
    tally = folded(block(1, loss=np.array([np.nan]), loss_known=np.array([True])), Tally(loss=1.0))
    assert tally.loss is not None
    assert math.isnan(tally.loss)


def test_the_finite_part_of_a_broken_gradient_is_not_shown_as_its_norm() -> None:
    tally = folded(
        block(2, global_norm=np.array([2.0, 0.0]), nonfinite=np.array([[0, 0, 0], [5, 0, 0]], dtype=np.int64))
    )
    assert (tally.grad_norm, window_max(tally), tally.nonfinite_steps) == (2.0, 2.0, 1)


def test_an_infinity_that_the_scaler_found_is_a_skipped_step_and_no_more() -> None:
    tally = folded(
        block(
            3,
            nonfinite=np.array([[0, 2, 0], [0, 0, 0], [1, 0, 0]], dtype=np.int64),
            flags=np.array(
                [RecordFlag.SKIPPED_BY_SCALER, RecordFlag.SKIPPED_BY_USER | RecordFlag.CLIPPED, 0], dtype=np.uint16
            ),
        )
    )
    assert (tally.skipped_found_inf, tally.skipped_user, tally.clipped_steps, tally.nonfinite_steps) == (1, 1, 1, 1)


def test_a_rank_that_a_step_closed_without_is_a_missing_record() -> None:
    tally = folded(block(2, ranks_present=np.array([[True, False], [True, False]])))
    assert (tally.missing_records, tally.ranks_reporting) == (2, 1)


def test_the_lowest_rank_that_the_last_step_had_to_do_without_is_named() -> None:
    missing = folded(block(2, ranks_present=np.array([[False, True], [True, False]])))
    assert missing.lowest_missing_rank == 1
    assert fold(missing, block(1), np.full(1, math.nan)).lowest_missing_rank is None, "it is back"


def test_the_largest_element_is_that_of_the_last_step_where_it_was_sampled() -> None:
    column = np.array([[1.0, 9.0], [2.0, np.nan], [np.nan, np.nan]], dtype=np.float32)
    tally = folded(block(3, sampled={Quantity.MAX_ABS: column}))
    assert tally.grad_norm_max == 2.0
    assert fold(tally, block(1), np.full(1, np.nan)).grad_norm_max == 2.0


def test_the_update_ratio_takes_the_layers_that_have_both_norms() -> None:
    tally = folded(
        block(
            2,
            update_norms=np.array([[3.0, 4.0], [np.nan, np.nan]], dtype=np.float32),
            weight_norms=np.array([[30.0, 40.0], [np.nan, 1.0]], dtype=np.float32),
        )
    )
    assert tally.update_ratio == pytest.approx(0.1)


def test_an_update_as_large_as_float32_goes_does_not_overflow() -> None:
    tally = folded(
        block(
            1,
            update_norms=np.array([[3e38, 3e38]], dtype=np.float32),
            weight_norms=np.array([[1.0, 1.0]], dtype=np.float32),
        )
    )
    assert tally.update_ratio == pytest.approx(3e38, rel=1e-6)


def test_rank_spread_is_the_largest_over_the_median() -> None:
    tally = folded(block(2, rank_norm=np.array([[1.0, 3.0], [np.nan, 9.0]])))
    assert tally.rank_spread_ratio == pytest.approx(1.5)


def test_a_spike_of_one_step_is_the_window_maximum_for_five_minutes() -> None:
    tally = folded(block(3, global_norm=np.array([1.0, 50.0, 1.0])))
    for minute in range(1, 5):
        tally = folded(block(1, times=np.array([MINUTE_0 + 60.0 * minute])), tally)
        assert window_max(tally) == 50.0
    tally = folded(block(1, times=np.array([MINUTE_0 + 300.0])), tally)
    assert window_max(tally) == 1.0
    assert len(tally.grad_norm_window) == 5


def test_a_clock_that_is_set_back_by_hours_does_not_hold_an_old_maximum() -> None:
    tally = folded(block(1, global_norm=np.array([50.0])))
    tally = folded(block(1, times=np.array([MINUTE_0 - 7200.0])), tally)
    assert window_max(tally) == 1.0


def test_a_clock_that_steps_back_a_second_loses_no_maximum() -> None:
    tally = folded(block(2, times=np.array([MINUTE_0, MINUTE_0 - 1.0]), global_norm=np.array([50.0, 1.0])))
    assert window_max(tally) == 50.0


def test_alerts_are_counted_when_they_open_and_not_when_they_change() -> None:
    run = Run(
        run_id=1,
        key=RunKey("p", "r"),
        state=RunState.RUNNING,
        started_at=0.0,
        last_record_at=None,
        ended_at=None,
        failure_reason="",
        config_json="",
        tags={},
        framework="",
        strategy="",
        attempts=1,
        world_size=2,
        last_step=None,
        closed_steps=0,
    )
    findings = [
        Finding(Signature.RUNAWAY, severity, "", step, step, Evidence(), "")
        for step, severity in enumerate([Severity.WARNING, Severity.CRITICAL, Severity.NONE, Severity.CRITICAL])
    ]
    opened = advance([], [], findings, run, 0.0)
    assert len(opened) == 4
    empty = fold(Tally(signatures={"spike": 2}), block(0), np.empty(0), opened)
    assert empty == Tally(signatures={"spike": 2, "runaway": 1})


def _story(rows: list[tuple[float, float, bool, int]]) -> ClosedBlock:
    """A block from (minutes, norm, NaN in it, flags)."""
    count = len(rows)
    return block(
        count,
        times=MINUTE_0 + 60.0 * np.array([row[0] for row in rows], dtype=np.float64),
        global_norm=np.array([row[1] for row in rows], dtype=np.float64),
        nonfinite=np.array([[row[2], 0, 0] for row in rows], dtype=np.int64).reshape(count, 3),
        flags=np.array([row[3] for row in rows], dtype=np.uint16),
        loss=np.array([row[1] for row in rows], dtype=np.float64),
        loss_known=np.array([not row[2] for row in rows], dtype=np.bool_),
    )


rows = st.lists(
    st.tuples(st.floats(-20, 20), st.sampled_from([1.0, 2.0, 1e300, math.nan]), st.booleans(), st.integers(0, 31)),
    max_size=12,
)


@given(story=rows, cut=st.integers(0, 12))
def test_any_cut_into_blocks_gives_the_same_tally(story: list[tuple[float, float, bool, int]], cut: int) -> None:
    whole = replace(folded(_story(story)), step=None)
    parts = replace(folded(_story(story[cut:]), folded(_story(story[:cut]))), step=None)
    assert to_json(parts) == to_json(whole)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 0.1, None])
def test_a_tally_survives_being_written_and_read(loss: float | None) -> None:
    tally = Tally(step=3, loss=loss, grad_norm_window=((28, 1.5), (29, 2.5)), signatures={"spike": 1}, steps=4)
    again = from_json(to_json(tally))
    assert repr(again) == repr(tally)


def test_a_tally_of_another_version_keeps_what_both_know() -> None:
    assert from_json('{"steps": 3, "of the future": 1}') == Tally(steps=3)
    with pytest.raises(ValueError, match="expected a JSON object"):
        from_json("[]")


def test_steps_in_which_replicas_disagree_are_counted_beyond_rounding() -> None:
    gaps = (ReplicaGap(0, 1, 1e-7), ReplicaGap(1, 1, 0.5), ReplicaGap(2, 1, 0.25), ReplicaGap(2, 3, 2.0))
    tally = folded(block(4, replica_gaps=gaps))
    assert (tally.disagreeing_steps, tally.replica_gap) == (2, 2.0)
    assert folded(block(4), tally).replica_gap == 2.0
