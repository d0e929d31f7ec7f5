"""What a cell shows, and what `.plot()` draws."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd.errors import QueryError
from seismograd.series import Curve, GradNorms, Layers


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """matplotlib without a screen; its figures are closed."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    yield plt
    plt.close("all")


def norms(values: Any, resolution: int = 1) -> GradNorms:
    largest = np.asarray(values, np.float64)
    steps = np.arange(len(largest), dtype=np.int64) * resolution
    counts = (~np.isfinite(largest)).astype(np.uint64)
    return GradNorms(steps, largest, counts, largest / 2, largest * 0.7, steps + resolution - 1, resolution)


def curve(values: Any) -> Curve:
    numbers = np.asarray(values, np.float64)
    steps, known = np.arange(len(numbers), dtype=np.int64), np.isfinite(numbers)
    return Curve("learning_rate", steps, numbers, known, (~known).astype(np.uint64), numbers, numbers, steps)


def test_norms_are_drawn_over_a_logarithmic_axis_with_what_was_not_finite(pyplot: ModuleType) -> None:
    axes = norms([1.0, 100.0, np.inf, 0.0, 2.0]).plot()
    assert axes.get_yscale() == "log"
    line, crosses = axes.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [1.0, 100.0, np.nan, np.nan, 2.0])
    assert crosses.get_xdata().tolist() == [2]
    axes.figure.canvas.draw()


def test_what_stands_for_several_steps_is_drawn_with_its_smallest_and_largest(pyplot: ModuleType) -> None:
    axes = norms([1.0, 2.0, 4.0], resolution=64).plot()
    assert len(axes.collections) == 1
    assert norms([1.0, 2.0]).plot(axes) is axes, "several runs may share a picture"


def test_layers_are_drawn_in_octaves_above_their_own_median(pyplot: ModuleType) -> None:
    values = np.array([[1.0, 4.0], [1.0, 4.0], [8.0, np.nan]], np.float32)
    steps = np.arange(3, dtype=np.int64)
    axes = Layers(("a", "b"), steps, values, values, values, steps).plot()
    np.testing.assert_array_equal(np.ma.filled(axes.collections[0].get_array(), np.nan), [[0, 0, 3], [0, 0, np.nan]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    with pytest.raises(QueryError, match="no layer was captured"):
        Layers((), steps[:0], values[:0], values[:0], values[:0], steps[:0]).plot()


def test_a_plot_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(QueryError, match=r'pip install "seismograd\[notebook\]"'):
        norms([1.0]).plot()


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300))
def test_whatever_was_stored_a_cell_shows_it(values: list[float]) -> None:
    with np.errstate(all="ignore"):
        for series in (norms(values), curve(values)):
            shown = series._repr_html_()
            ET.fromstring(f"<div>{shown}</div>")
            assert "nan" not in shown.replace("not known", "")
            assert ("no step yet" in shown) == (not values)
