"""What the demo shows: a line of bars that is true, and words that survive hostile names."""

from __future__ import annotations

import io
import math

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from seismograd_server.demo.display import Lines, Terminal, alert_text, numbers
from seismograd_server.demo.picture import Picture, SeenAlert
from seismograd_server.demo.sparkline import BARS, BROKEN, bounds, sparkline

NORMS = st.lists(st.floats(allow_nan=True, allow_infinity=True, min_value=None), max_size=300)
ALERT = SeenAlert("a", "runaway", "critical", 9, 9, "grows", leading_rank=None, leading_layer=None)


@given(NORMS, st.integers(1, 120))
def test_a_line_of_bars_is_never_wider_than_its_room(values: list[float], width: int) -> None:
    drawn = sparkline(values, width, *bounds(values))
    assert len(drawn) == min(width, len(values))
    assert set(drawn) <= {*BARS, BROKEN}


def test_equal_factors_are_equal_rises() -> None:
    assert sparkline([2.0**exponent for exponent in range(8)], 8, 1.0, 128.0) == BARS


def test_a_peak_of_one_step_is_not_lost_among_many() -> None:
    values = [1.0] * 1000
    values[517] = 100.0
    assert sparkline(values, 20, 1.0, 100.0).count(BARS[-1]) == 1


def test_a_step_that_is_not_finite_is_marked() -> None:
    assert sparkline([1.0, math.nan, 1.0, math.inf], 4, 1.0, 10.0) == f"{BARS[0]}{BROKEN}{BARS[0]}{BROKEN}"


def test_the_bounds_of_nothing_are_one() -> None:
    assert bounds([], [math.nan, 0.0, -1.0]) == (1.0, 1.0)


def test_numbers_say_step_norm_and_loss() -> None:
    seen = Picture("lstm-1-pushed", "running", (0, 1), (0.5, 20.0), (4.0, None))
    assert numbers(seen) == "step 1  norm 20  (0.5 to 20)"
    assert numbers(Picture("lstm-1-pushed")) == "no step yet"


def test_an_alert_from_outside_cannot_colour_or_move_anything() -> None:
    hostile = SeenAlert("a", "runaway", "critical", 9, 9, "[red]\x1b[2J\u202e", leading_rank=None, leading_layer=None)
    shown = alert_text("lstm-1-pushed", hostile).plain
    assert "\x1b" not in shown
    assert "[red]" in shown


def test_without_a_terminal_every_fifty_steps_are_a_line() -> None:
    output = io.StringIO()
    with Lines(Console(file=output, width=200)) as lines:
        for count in range(1, 121):
            lines.update([Picture("run", "running", tuple(range(count)), (1.0,) * count, (2.0,) * count)])
        lines.update([Picture("run", "finished", tuple(range(121)), (1.0,) * 121, (2.0,) * 121)])
        lines.alert("run", ALERT)
    said = output.getvalue().splitlines()
    assert [line.split()[1] for line in said[:3]] == ["49", "99", "120"]
    assert "critical runaway at step 9" in said[3]


def test_a_terminal_shows_both_runs_at_the_end() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True)
    with Terminal(console) as screen:
        screen.update([Picture("lstm-1-healthy", "finished", (0,), (1.0,), (2.0,))])
        screen.alert("lstm-1-pushed", ALERT)
        screen.update(
            [
                Picture("lstm-1-healthy", "finished", (0,), (1.0,), (2.0,)),
                Picture("lstm-1-pushed", "running", (0,), (9.0,), (2.0,)),
            ]
        )
    said = output.getvalue()
    assert "healthy" in said
    assert "pushed" in said
    assert "critical runaway" in said
