"""One frame of `seismograd top`: which runs stand where, how fast each goes, and what is said above them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seismograd_server.commands import output
from seismograd_server.display.numbers import clock_time, duration, figure, times
from seismograd_server.display.text import plural

# Lines around the runs: what is said above, the head of the table, what is left out, and one to spare.
_LINES_AROUND = 5
# A norm that is this many times its usual is drawn in the colour of a warning, whether anything fires or not.
_FAR_ABOVE = 4.0
_COLUMNS = ("run", "state", "step", "norm", "× usual", "loss", "steps/s", "ranks", "last", "firing")
_NUMBERS = frozenset({"step", "norm", "× usual", "loss", "steps/s", "ranks", "last"})
_NAMES = frozenset({"run", "firing"})
# A narrow terminal cuts names down to this, the longest first; then whole columns are left out, these in this order. A
# number is never cut: half of one is another number.
_NAME_CELLS = 14
_DISPENSABLE = ("loss", "steps/s", "last", "ranks", "× usual", "state", "step", "norm", "firing")
_GAP_CELLS = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown.

    Attributes:
        answer: of `/api/v1/live`; the last one there was.
        rates: steps per second by run, between this answer and an earlier one.
        now: Unix seconds, by the server's clock as far as it is known.
        trouble: why there is no newer answer; "" = there is.
    """

    answer: dict[str, Any]
    rates: Mapping[str, float]
    now: float
    trouble: str = ""


def rates(before: dict[str, Any] | None, after: dict[str, Any]) -> dict[str, float]:
    """Steps per second of each run: between two answers where it is in both, else since it began."""
    earlier = {name_of(run): run for run in before["runs"]} if before else {}
    seconds = after["taken_at"] - before["taken_at"] if before else 0.0
    found = {}
    for run in after["runs"]:
        name = name_of(run)
        if name in earlier and seconds > 0 and run["steps"] >= earlier[name]["steps"]:
            found[name] = (run["steps"] - earlier[name]["steps"]) / seconds
        elif run["last_record_at"] and run["last_record_at"] > run["started_at"]:
            found[name] = run["steps"] / (run["last_record_at"] - run["started_at"])
    return found


def name_of(run: dict[str, Any]) -> str:
    """A run as people call it."""
    return f"{run['project']}/{run['run']}"


def drawn(frame: Frame, height: int | None = None, width: int | None = None) -> RenderableType:
    """The frame, of so many lines and cells that what does not fit is counted or left out. None = all of it."""
    runs = frame.answer["runs"]
    room = len(runs) if height is None else max(1, height - _LINES_AROUND)
    parts: list[RenderableType] = [_head(frame)]
    parts.append(Text(frame.trouble, style="bold yellow") if frame.trouble else Text(""))
    if runs:
        parts.append(_table([_row(frame, run) for run in runs[:room]], width))
    else:
        parts.append(Text("No run is live: `seismograd demo` makes one, README.md says how to watch your own."))
    if len(runs) > room:
        parts.append(Text(f"… and {plural(len(runs) - room, 'more run')}", style="dim"))
    return Group(*parts)


def _head(frame: Frame) -> Text:
    runs = frame.answer["runs"]
    running = sum(1 for run in runs if run["state"] == "running")
    firing = sum(1 for run in runs if run["firing"])
    head = Text.assemble(
        (f"seismograd {clock_time(frame.answer['taken_at'])} UTC", "bold"),
        f"  {plural(len(runs), 'run')}, {running:,} running, ",
    )
    head.append(f"{firing:,} firing", style="bold red" if firing else "")
    return head


def _table(rows: list[dict[str, Text | str]], width: int | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    columns = _that_fit(rows, width)
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", no_wrap=column not in _NAMES)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _that_fit(rows: list[dict[str, Text | str]], width: int | None) -> list[str]:
    columns = list(_COLUMNS)
    cells = {
        column: max(cell_len(str(text)) for text in (column, *(row[column] for row in rows))) for column in columns
    }
    for name in _NAMES:
        cells[name] = min(cells[name], _NAME_CELLS)
    for column in _DISPENSABLE:
        if width is None or sum(cells[each] + _GAP_CELLS for each in columns) - _GAP_CELLS <= width:
            break
        columns.remove(column)
    return columns


def _row(frame: Frame, run: dict[str, Any]) -> dict[str, Text | str]:
    rate, last = frame.rates.get(name_of(run)), run["last_record_at"]
    present, size = run["ranks_reporting"], run["world_size"]
    cells = (
        _cut_to_fit(output.name(name_of(run))),
        output.word(run["state"]),
        "–" if run["step"] is None else f"{run['step']:,}",
        output.number(run["grad_norm"]),
        _times(run["times_usual"]),
        output.number(run["loss"]),
        "–" if rate is None else figure(rate, 2),
        f"{size}" if present in {0, size} else f"{present}/{size}",
        "never" if last is None else duration(max(0.0, frame.now - last)),
        _cut_to_fit(Text(_firing(run), style=output.STYLES.get(run["severity"], ""))),
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _cut_to_fit(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _firing(run: dict[str, Any]) -> str:
    return ", ".join(each["signature"] for each in run["firing"]) or "–"


def _times(value: Any) -> Text:
    if not isinstance(value, int | float):
        return Text("–" if value is None else str(value))
    return Text(times(float(value)), style="yellow" if value >= _FAR_ABOVE else "")
