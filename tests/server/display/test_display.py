from __future__ import annotations

import doctest
import importlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.display import svg
from seismograd_server.display.charts import Moments, loss_chart
from seismograd_server.display.curves import curve_data
from seismograd_server.display.scale import LinearScale, LogScale
from seismograd_server.display.text import file_stem, printable
from seismograd_server.display.thinning import kept_points
from tests.support.histories import make_series


@pytest.mark.parametrize("module", ["numbers", "text", "thinning"])
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


def test_a_curve_breaks_where_a_value_is_missing() -> None:
    drawn = svg.curve(np.array([0.0, 1, 2, 3, 4]), np.array([1.0, 2, np.nan, 3, np.nan]), "norm")
    assert drawn.count("M") == 1
    assert "NaN" not in drawn.replace("nan", "NaN")
    assert 'class="norm-dot"' in drawn


def test_marks_in_a_row_keep_their_distance_and_their_order() -> None:
    places = svg.spread(np.array([100.0, 101.0, 102.0, 899.0]), 20.0, 0.0, 900.0)
    assert (np.diff(places) >= 20.0).all()
    assert places.max() <= 900.0
