"""`seismograd top`: all live runs in the terminal, redrawn in place until somebody has seen enough."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from seismograd_server.commands import output
from seismograd_server.commands.failures import Command
from seismograd_server.commands.remote import Remote, json_option, server_url_option
from seismograd_server.commands.top_frame import Frame, drawn, rates
from seismograd_server.display.numbers import duration
from seismograd_server.display.text import printable
from seismograd_server.errors import SeismogradError

# A server that takes longer is as good as away; the next look asks again.
_PATIENCE_SECONDS = 5.0
# How soon a key is noticed.
_KEY_SECONDS = 0.1
# Rates are taken over so many seconds at least: between two looks a run of slow steps may make none.
_RATE_SECONDS = 10.0
_LEAVE = frozenset(b"qQ\x03\x04")


@click.command(cls=Command)
@click.option("--project", help="Only this project.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600.0), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Print one frame and end; so it is where there is no terminal.")
@server_url_option
@json_option
def top(*, project: str | None, interval: float, once: bool, server_url: str, as_json: bool) -> None:
    """Watch all live runs: norm, loss, speed, ranks and alerts, those that fire first. q or Ctrl-C ends it.

    "× usual" is the norm over its usual level. While the server does not answer, the last frame stays and says so. With
    --json, every look is a line.
    """
    with Remote(server_url) as remote:
        watch = Watch(remote, project)
        watch.look()  # a server that was never there is an error, not a reason to wait
        if not watch.frame().answer["runs"]:
            remote.require_project(project)
        console = output.console()
        if once or not (as_json or console.is_terminal):
            _print(watch, console, as_json=as_json)
            return
        with contextlib.suppress(KeyboardInterrupt):
            if as_json:
                _stream(watch, interval)
            else:
                _show(watch, console, interval)


@dataclass
class Watch:
    """What the server last said, from any thread."""

    remote: Remote
    project: str | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: list[tuple[float, dict[str, Any]]] = field(default_factory=list)  # (when, by this machine's own clock)
    away_since: float | None = None
    why: str = ""

    def look(self) -> None:
        """Ask once.

        Raises:
            SeismogradError: there is no answer.
        """
        wanted = {"project": self.project} if self.project else {}
        answer = self.remote.json("GET", "/api/v1/live", params=wanted, timeout=_PATIENCE_SECONDS)
        with self.lock:
            self.answers.append((time.monotonic(), answer))
            while len(self.answers) > 2 and self.answers[1][0] <= self.answers[-1][0] - _RATE_SECONDS:
                del self.answers[0]
            self.away_since = None

    def try_look(self) -> None:
        """Ask once, and remember when there is no answer."""
        try:
            self.look()
        except SeismogradError as error:
            with self.lock:
                self.away_since = self.away_since or time.monotonic()
                self.why = " ".join(str(error).split())

    def frame(self) -> Frame:
        """What is to be shown now."""
        with self.lock:
            now = time.monotonic()
            first, last = self.answers[0], self.answers[-1]
            trouble = ""
            if self.away_since is not None:
                trouble = (
                    f"No answer for {duration(now - self.away_since)}, what you see is older: {printable(self.why)}"
                )
            answer = last[1]
            speed = rates(first[1] if len(self.answers) > 1 else None, answer)
            return Frame(answer, speed, answer["taken_at"] + now - last[0], trouble)


def _print(watch: Watch, console: Console, *, as_json: bool) -> None:
    frame = watch.frame()
    if as_json:
        output.print_json(frame.answer)
    else:
        console.print(drawn(frame, width=console.width))


def _stream(watch: Watch, interval: float) -> None:
    while True:
        output.print_json(watch.frame().answer)
        sys.stdout.flush()
        time.sleep(interval)
        watch.try_look()
        while watch.away_since is not None:
            click.echo(f"Error: {watch.why}", err=True)
            time.sleep(interval)
            watch.try_look()


def _show(watch: Watch, console: Console, interval: float) -> None:
    over = threading.Event()

    def look_on() -> None:
        while not over.wait(interval):
            watch.try_look()

    looking = threading.Thread(target=look_on, name="top", daemon=True)
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        looking.start()
        try:
            while not pressed(_KEY_SECONDS):
                live.update(drawn(watch.frame(), console.height, console.width), refresh=True)
        finally:
            over.set()


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds for a key that ends the watch; the terminal is put back afterwards."""
    if not sys.stdin.isatty():

        def wait(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        yield wait
        return
    # Only POSIX has them, and only here are they needed.
    import termios  # noqa: PLC0415 - as above
    import tty  # noqa: PLC0415 - as above

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return False
        # Past Python's own buffer, in which a second key would not be seen by `select`; nothing = the terminal is gone.
        keys = os.read(descriptor, 64)
        return not keys or any(each in _LEAVE for each in keys)

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
