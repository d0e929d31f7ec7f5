from __future__ import annotations

import doctest
import importlib
import re
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.display import svg
from seismograd_server.display.charts import Moments, loss_chart, norm_chart
from seismograd_server.display.curves import curve_data, curve_table, curves_of_buckets
from seismograd_server.display.heat import heatmap_of_buckets
from seismograd_server.display.heat_chart import heat_chart
from seismograd_server.display.scale import LinearScale, LogScale
from seismograd_server.display.text import file_stem, printable
from seismograd_server.display.thinning import kept_points
from seismograd_server.display.tree import LayerRow
from seismograd_server.reading.buckets import layer_summary, series_summary
from seismograd_server.store.blocks import StepChunk
from tests.support.closed import layout, run_of
from tests.support.histories import make_series


@pytest.mark.parametrize("module", ["numbers", "text", "thinning", "tree"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"seismograd_server.display.{module}"))
    assert results.attempted > 0
    assert results.failed == 0


@given(st.text())
def test_whatever_is_printable_encodes_and_holds_no_control_character(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert "\n" not in shown
    assert "\u202e" not in shown


@given(st.text())
def test_a_file_stem_is_a_plain_visible_name(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", file_stem(text)) or file_stem(text)[0] not in "./"
    assert "/" not in file_stem(text)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=400), st.integers(1, 20))
def test_thinning_keeps_both_extremes_and_stays_within_its_bound(values: list[float], buckets: int) -> None:
    series = np.array(values, np.float64)
    kept = kept_points(series, buckets)
    assert len(kept) <= max(len(series) if len(series) <= 4 * buckets else 0, 4 * buckets)
    finite = series[np.isfinite(series)]
    if len(finite):
        assert finite.max() in series[kept]
        assert finite.min() in series[kept]


def test_a_logarithmic_scale_has_powers_of_ten_as_ticks() -> None:
    scale = LogScale.around(np.array([0.02, 3.0, 700.0, np.inf, np.nan, 0.0]), 300.0, 0.0)
    assert [tick.label for tick in scale.ticks()] == ["10⁻²", "10⁻¹", "10⁰", "10¹", "10²", "10³"]
    assert scale.places(np.array([0.01, 1000.0, 0.0, np.inf])).tolist() == [300.0, 0.0, 300.0, 0.0]


def test_a_wide_logarithmic_scale_thins_its_ticks() -> None:
    scale = LogScale.around(np.array([1e-30, 1e38]), 300.0, 0.0)
    assert 3 <= len(scale.ticks()) <= 8


def test_a_step_axis_has_round_whole_ticks() -> None:
    labels = [tick.label for tick in LinearScale(0, 2345, 0, 900, wanted=8, whole=True).ticks()]
    assert labels == ["0", "500", "1,000", "1,500", "2,000"]


def test_a_scale_of_one_value_does_not_divide_by_zero() -> None:
    assert np.isfinite(LinearScale(5, 5, 0, 900).places(np.array([5.0]))).all()
    assert len(LinearScale(5, 5, 0, 900).ticks()) == 1


def test_losses_at_the_ends_of_float64_are_drawn() -> None:
    series = make_series([1.0, 2.0, 3.0], loss=[1.7e308, 3.0, -1.7e308])
    data = curve_data(series, 0, 2, None)
    assert data is not None
    assert "<svg" in loss_chart(data, [], Moments(), "loss")


def chunk_of(norms: Sequence[float], broken_rows: Sequence[int] = ()) -> StepChunk:
    """Closed steps as they come out of the store; in the broken ones every element is NaN."""
    block = run_of(norms)
    block.nonfinite[list(broken_rows), 0] = 10
    names = [each.name for each in fields(StepChunk) if each.name not in {"ordinal", "launch_row"}]
    return StepChunk(ordinal=0, launch_row=1, **{name: getattr(block, name) for name in names})


def test_curves_of_buckets_keep_every_extreme_and_mark_what_was_not_finite() -> None:
    chunk = chunk_of([1.0, 50.0, 2.0, 0.0, 3.0, 4.0], broken_rows=[3])
    data = curves_of_buckets(series_summary(chunk, 2), None)
    assert data.steps.tolist() == [0, 0, 2, 2, 4, 4]
    assert data.norm[:2].tolist() == [1.0, 50.0]
    assert np.nanmax(data.norm[2:4]) == 2.0
    assert np.isnan(data.norm[2:4]).any(), "where no element was finite there is no level"
    assert data.norm[4:].tolist() == [3.0, 4.0]
    assert data.broken_steps.tolist() == [2]
    assert (data.first_step, data.last_step) == (0, 5)
    assert "50" in norm_chart(data, [], Moments(), "norm")


def test_the_usual_level_of_buckets_is_the_median_of_those_before_and_stays_from_the_onset_on() -> None:
    norms = [2.0] * 20 + [100.0] * 20
    data = curves_of_buckets(series_summary(chunk_of(norms), 2), 20)
    assert np.isnan(data.baseline[:2]).all()
    assert data.baseline[2:].tolist() == [2.0] * 38


def test_a_table_of_the_curves_covers_every_step_once() -> None:
    data = curve_data(make_series(list(range(1, 101))), 0, 99, None)
    assert data is not None
    rows = curve_table(data, 7)
    assert [rows[0].first_step, rows[-1].last_step] == [0, 99]
    assert [row.first_step for row in rows[1:]] == [row.last_step + 1 for row in rows[:-1]]
    assert [row.norm_low for row in rows] == [float(row.first_step + 1) for row in rows]
    assert max(row.norm_high or 0 for row in rows) == 100.0


def test_a_heatmap_of_buckets_shows_of_a_module_the_layer_that_is_farthest_above() -> None:
    norms = np.ones((8, 3), np.float32)
    norms[:, 1] = 4.0
    norms[6, 1] = 32.0
    norms[2, 2] = np.inf
    block = run_of(np.ones(8), layer_norms=norms, layout=layout(["a.x", "a.y", "b"], 1))
    summary = layer_summary(block, 2)
    picture = heatmap_of_buckets(summary, [LayerRow("a", (0, 1)), LayerRow("b", (2,))], None)
    assert picture is not None
    assert picture.names == ("a (2)", "b")
    assert picture.octaves[0].tolist() == [0.0, 0.0, 0.0, 3.0]
    assert picture.nonfinite[1].tolist() == [False, True, False, False]
    drawn = heat_chart(picture, Moments(), "heat", ["/open?a=1&b=2", ""])
    assert drawn.count("<a ") == 1
    assert 'href="/open?a=1&amp;b=2"' in drawn
    assert 'role="group"' in drawn


def test_a_curve_breaks_where_a_value_is_missing() -> None:
    drawn = svg.curve(np.array([0.0, 1, 2, 3, 4]), np.array([1.0, 2, np.nan, 3, np.nan]), "norm")
    assert drawn.count("M") == 1
    assert "NaN" not in drawn.replace("nan", "NaN")
    assert 'class="norm-dot"' in drawn


def test_marks_in_a_row_keep_their_distance_and_their_order() -> None:
    places = svg.spread(np.array([100.0, 101.0, 102.0, 899.0]), 20.0, 0.0, 900.0)
    assert (np.diff(places) >= 20.0).all()
    assert places.max() <= 900.0
