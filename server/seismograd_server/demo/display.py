"""How the demo shows what happens: redrawn in place on a terminal, line by line elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seismograd_server.commands.output import STYLES
from seismograd_server.commands.output import console as standard_console
from seismograd_server.demo.picture import Picture, SeenAlert
from seismograd_server.demo.sparkline import bounds, sparkline
from seismograd_server.display.numbers import figure
from seismograd_server.display.text import printable

# A line of progress is written every so many steps where nothing can be redrawn.
_LINE_EVERY_STEPS = 50
# Of a terminal's width, what is left of and right of the line of norms.
_MARGIN = 14
_NARROWEST, _WIDEST = 20, 100


class Screen(Protocol):
    """Where the demo tells its story; a context manager."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what was shown stays."""

    def say(self, text: str) -> None:
        """Tell something that stays."""

    def update(self, pictures: Sequence[Picture]) -> None:
        """Show the runs as they are now, the latest last."""

    def alert(self, run: str, alert: SeenAlert) -> None:
        """Tell of an alert that has just become known."""


class Lines:
    """For pipes and files: what happens, a line each."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told = 0
        self._run = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def say(self, text: str) -> None:
        """Write a line."""
        self._console.print(Text(text), soft_wrap=True)

    def update(self, pictures: Sequence[Picture]) -> None:
        """Write how the latest run stands, every fifty steps and at its end."""
        picture = pictures[-1]
        if picture.run != self._run:
            self._run, self._told = picture.run, 0
        count = len(picture.steps)
        if count >= self._told + _LINE_EVERY_STEPS or (picture.over and count > self._told):
            self._told = count
            self.say(f"  {numbers(picture)}")

    def alert(self, run: str, alert: SeenAlert) -> None:
        """Write the alert."""
        self._console.print(alert_text(run, alert), soft_wrap=True)


class Terminal:
    """For people: both runs redrawn in place, everything else above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Write a line above the picture."""
        self._live.console.print(Text(text))

    def update(self, pictures: Sequence[Picture]) -> None:
        """Redraw the runs."""
        self._live.update(drawn(pictures, self._console.width, graphic=is_graphic(self._console)))

    def alert(self, run: str, alert: SeenAlert) -> None:
        """Write the alert above the picture."""
        self._live.console.print(alert_text(run, alert))


def open_screen(*, to_stderr: bool) -> tuple[Console, Screen]:
    """The console, and the screen on it: a terminal is redrawn, anything else gets lines."""
    console = Console(stderr=True, highlight=False) if to_stderr else standard_console()
    return console, Terminal(console) if console.is_terminal else Lines(console)


def is_graphic(console: Console) -> bool:
    """Whether bars can be shown."""
    return console.encoding.lower().startswith("utf")


def numbers(picture: Picture) -> str:
    """How a run stands, in numbers."""
    if not picture.steps:
        return "no step yet"
    known = [value for value in picture.norms if not math.isnan(value)]
    loss = picture.losses[-1]
    parts = [
        f"step {picture.steps[-1]}",
        f"norm {figure(picture.norms[-1])}",
        f"({figure(min(known))} to {figure(max(known))})" if known else "",
        f"loss {figure(loss)}" if loss is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def alert_text(run: str, alert: SeenAlert) -> Text:
    """An alert in one line, or more on a terminal."""
    text = Text("  ! ", style=STYLES.get(alert.severity, ""))
    text.append(f"{alert.severity} {alert.signature}", style=STYLES.get(alert.severity, ""))
    return text.append(
        f" at step {alert.critical_step or alert.opened_step} of {printable(run)}: {printable(alert.reason)}",
        style="default",
    )


def drawn(pictures: Sequence[Picture], width: int, *, graphic: bool) -> RenderableType:
    """Both runs on one logarithmic scale of norms, with their numbers."""
    low, high = bounds(*(picture.norms for picture in pictures))
    room = max(_NARROWEST, min(_WIDEST, width - _MARGIN))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for picture in pictures:
        table.add_row(Text(picture.run.rsplit("-", 1)[-1], style="bold"), Text(numbers(picture)))
        if graphic:
            style = "red" if any(each.severity == "critical" for each in picture.alerts) else "green"
            table.add_row(Text(""), Text(sparkline(picture.norms, room, low, high), style=style))
    scale = f"gradient norm on a logarithmic scale from {figure(low)} to {figure(high)}"
    return Group(table, Text(scale, style="dim")) if graphic else table
