"""The picture of a run in the list: where the line lies, and what is marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from xml.etree import ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.display.curves import CurveData, curves_of_buckets
from seismograd_server.display.trail import HEIGHT, WIDTH, trail_chart, trail_picture
from seismograd_server.model import RecordFlag
from seismograd_server.reading.buckets import series_summary
from seismograd_server.store.blocks import StepChunk
from tests.support.closed import run_of

NAMES = [each.name for each in fields(StepChunk) if each.name not in {"ordinal", "launch_row"}]


def course(norms: Sequence[float], broken: Sequence[int] = (), skipped: Sequence[int] = (), size: int = 1) -> CurveData:
    """Of steps; in the broken ones every element is NaN, and of these a scaler skipped some."""
    block = run_of(norms)
    block.nonfinite[list(broken), 0] = 10
    block.flags[list(skipped)] = int(RecordFlag.SKIPPED_BY_SCALER)
    chunk = StepChunk(ordinal=0, launch_row=1, **{name: getattr(block, name) for name in NAMES})
    return curves_of_buckets(series_summary(chunk, size), None)


def points(picture: str) -> list[tuple[float, float]]:
    """The points of the line, left to right."""
    (line,) = re.findall(r'<path class="norm" d="([^"]*)"', picture)
    pairs = re.findall(r"(-?[\d.]+) (-?[\d.]+)", line)
    return [(float(x), float(y)) for x, y in pairs]


def marks(picture: str) -> int:
    """How many marks of broken gradients there are."""
    return picture.count('<path class="broken"')


@given(st.lists(st.one_of(st.floats(0), st.sampled_from([np.nan, 1.0])), min_size=1, max_size=50))
def test_whatever_the_norms_are_the_picture_is_sound_and_nothing_leaves_it(norms: list[float]) -> None:
    picture = trail_picture(course(norms))
    ET.fromstring(picture)
    for path in re.findall(r'<path class="norm" d="([^"]*)"', picture):
        for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path):
            assert 0 <= float(x) <= WIDTH
            assert 0 <= float(y) <= HEIGHT


def test_a_calm_run_is_level_and_an_explosion_fills_the_height() -> None:
    noise = np.random.default_rng(0).normal(1.0, 0.1, 100)
    calm = [y for _, y in points(trail_picture(course(noise.tolist())))]
    assert max(calm) - min(calm) < HEIGHT / 4
    exploding = [y for _, y in points(trail_picture(course([*noise, *(10.0 ** np.arange(1, 9))])))]
    assert exploding[-1] == min(exploding) < HEIGHT / 5
    assert exploding[0] > 4 * HEIGHT / 5


def test_a_broken_step_is_marked_and_gives_no_level_and_a_scalers_skip_is_neither() -> None:
    picture = trail_picture(course([1.0, 1.0, 1.0, 0.0, 1.0, 1.0], broken=[3]))
    assert marks(picture) == 1
    assert len({x for x, _ in points(picture)}) == 5
    assert marks(trail_picture(course([1.0] * 6, broken=[3], skipped=[3]))) == 0


def test_a_spike_of_one_step_is_seen_in_its_bucket() -> None:
    norms = np.ones(1024)
    norms[700] = 1000.0
    lying = [y for _, y in points(trail_picture(course(norms.tolist(), size=64)))]
    assert min(lying) in lying[2 * (700 // 64) : 2 * (700 // 64) + 2]
    assert min(lying) < max(lying) - HEIGHT / 2


def test_in_a_page_the_onset_is_marked_and_the_label_is_text() -> None:
    chart = trail_chart(course([1.0] * 5), 'norm of <b>"x"', onset=2)
    assert ET.fromstring(chart).attrib["aria-label"] == 'norm of <b>"x"'
    assert f'<path class="onset-line" d="M{WIDTH / 2:.1f} 0V{HEIGHT}"/>' in chart
    assert "onset-line" not in trail_chart(course([1.0] * 5), "norm")


def test_a_run_without_a_step_is_an_empty_picture() -> None:
    assert "<path" not in trail_picture(None)
