"""`seismograd top` in a real terminal, over the real application on a real port."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from rich.console import Console

from seismograd_server.commands.top_frame import Frame, drawn, rates
from tests.support.processes import free_port
from tests.support.reading import Stocked
from tests.support.seismograd import PROGRAM, seismograd
from tests.support.synthetic import healthy_norms

# A machine may be ten times slower than usual; what is right comes at once on any other.
_PATIENCE_SECONDS = 120.0
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")


class Web:
    """The web application, which can go away and come back on the same port."""

    def __init__(self, stocked: Stocked) -> None:
        self._stocked = stocked
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = uvicorn.Config(self._stocked.app(), port=self.port, log_config=None, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="web", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30.0)


@pytest.fixture
def web(stocked: Stocked) -> Iterator[Web]:
    stocked.add("odd[b]\u202e", norms=healthy_norms(5), finish=False)
    found = Web(stocked)
    found.start()
    yield found
    found.stop()


def whole_frame(came: str, words: tuple[str, ...], without: str) -> str:
    """The first frame with all of these words; "" = there is none. The head of the next one tells that one is whole."""
    frames = re.split(r"(?=seismograd \d\d:\d\d:\d\d UTC)", _ANSI.sub("", came))
    found = [each for each in frames[:-1] if all(word in each for word in words)]
    return next((each for each in found if not without or without not in each), "")


class Terminal:
    """A program in a pseudo-terminal of 100 columns and 24 lines."""

    def __init__(self, *command: str) -> None:
        self._own, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "24"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True, close_fds=True
        )
        self.raw = ""

    def until(self, *words: str, without: str = "") -> str:
        """Reads on until a whole frame has all of the words, and not that one; gives the frame."""
        came, until = "", time.monotonic() + _PATIENCE_SECONDS
        while not (frame := whole_frame(came, words, without)):
            assert time.monotonic() < until, f"{words} never came; the last was {came[-2000:]!r}"
            ready, _, _ = select.select([self._own], [], [], 0.2)
            if ready:
                came += os.read(self._own, 65536).decode(errors="replace")
            elif self.process.poll() is not None:
                pytest.fail(f"ended with {self.process.returncode}: {came[-2000:]!r}")
        self.raw += came
        return frame

    def press(self, keys: bytes) -> None:
        os.write(self._own, keys)

    def end(self) -> int:
        """Waits for the program while reading what it writes; gives its exit code."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < until
            ready, _, _ = select.select([self._own], [], [], 0.1)
            if ready:
                self.raw += os.read(self._own, 65536).decode(errors="replace")
        return self.process.returncode

    def settings(self) -> Any:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._own)
        os.close(self._theirs)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    started = []

    def start(*command: str) -> Terminal:
        started.append(Terminal(*command))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_top_shows_all_runs_survives_the_server_and_ends_with_q(web: Web, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(PROGRAM, "top", "--server-url", web.url, "--interval", "0.2")
    first = screen.until("mt/exploding", "mt/healthy", "odd[b]\\u202e", "× usual")
    assert first.index("mt/exploding") < first.index("mt/healthy"), "what fires stands first"
    assert "runaway" in first
    web.stop()
    away = screen.until("No answer for", "what you see is older")
    assert "mt/healthy" in away
    web.start()
    screen.until("mt/healthy", without="No answer")
    assert screen.process.poll() is None
    screen.press(b"xq")
    assert screen.end() == 0
    assert "\x1b[?1049h" in screen.raw, "an alternate screen, so that what was there comes back"
    assert "\x1b[?1049l" in screen.raw
    assert screen.settings() == screen.before


def test_control_c_ends_it_without_a_word(web: Web, terminal: Callable[..., Terminal]) -> None:
    screen = terminal(PROGRAM, "top", "--server-url", web.url)
    screen.until("mt/healthy")
    os.killpg(screen.process.pid, signal.SIGINT)
    assert screen.end() == 0
    assert "Traceback" not in screen.raw
    assert "Error" not in screen.raw
    assert screen.settings() == screen.before


def test_one_frame_for_a_pipe_and_one_answer_for_a_program(web: Web) -> None:
    shown = seismograd("top", "--server-url", web.url, timeout=_PATIENCE_SECONDS)
    assert shown.returncode == 0, shown.stderr
    assert "mt/exploding" in shown.stdout
    assert "\x1b" not in shown.stdout
    told = seismograd("top", "--once", "--json", "--server-url", web.url, timeout=_PATIENCE_SECONDS)
    runs = json.loads(told.stdout)["runs"]
    assert runs[0]["severity"] == "critical"
    assert {run["run"] for run in runs} >= {"exploding", "healthy"}
    other = seismograd("top", "--once", "--project", "mtt", "--server-url", web.url, timeout=_PATIENCE_SECONDS)
    assert (other.returncode, other.stderr) == (1, 'Error: no project "mtt"; did you mean "mt"?\n')


def test_a_server_that_was_never_there_is_an_error() -> None:
    shown = seismograd("top", "--server-url", f"http://127.0.0.1:{free_port()}", timeout=_PATIENCE_SECONDS)
    assert shown.returncode == 1
    assert "seismograd serve" in shown.stderr


def run_of(name: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "project": "mt",
        "run": name,
        "state": "running",
        "severity": "",
        "firing": [],
        "step": 10,
        "steps": 10,
        "grad_norm": 1.0,
        "times_usual": 1.0,
        "loss": "NaN",
        "world_size": 4,
        "ranks_reporting": 4,
        "started_at": 100.0,
        "last_record_at": 120.0,
    }
    return values | changes


def test_a_rate_is_taken_between_two_looks_and_else_since_the_run_began() -> None:
    before = {"taken_at": 120.0, "runs": [run_of("a", steps=10), run_of("again", steps=50)]}
    after = {
        "taken_at": 124.0,
        "runs": [
            run_of("a", steps=18),
            run_of("again", steps=2),
            run_of("new", steps=40),
            run_of("silent", last_record_at=None),
        ],
    }
    assert rates(before, after) == {"mt/a": 2.0, "mt/again": 0.1, "mt/new": 2.0}
    assert rates(None, after)["mt/a"] == 18 / 20


def text_of(frame: Frame, height: int | None = None) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(drawn(frame, height))
    return capture.get()


def test_a_frame_shows_missing_ranks_trouble_and_how_many_do_not_fit() -> None:
    runs = [run_of(f"run-{place}", ranks_reporting=3) for place in range(30)]
    text = text_of(Frame({"taken_at": 0.0, "runs": runs}, {}, 130.0, "No answer for 3 s"), 12)
    assert "3/4" in text
    assert "No answer for 3 s" in text
    assert "… and 23 more runs" in text
    assert "NaN" in text
    assert len(text.splitlines()) <= 12
    assert "run-29" in text_of(Frame({"taken_at": 0.0, "runs": runs}, {}, 130.0))


@pytest.mark.parametrize("width", [200, 120, 100, 90, 80, 70, 60, 40, 20])
def test_a_narrow_terminal_cuts_names_leaves_out_columns_and_never_cuts_a_number(width: int) -> None:
    long = run_of(
        "a-very-long-name-of-a-run-that-somebody-made-up",
        step=1_234_567,
        grad_norm=1.234e-05,
        loss=12.34,
        times_usual=123.0,
        world_size=1024,
        ranks_reporting=1000,
        firing=[{"signature": "runaway"}, {"signature": "ratchet"}, {"signature": "non-finite gradients"}],
        severity="critical",
    )
    frame = Frame({"taken_at": 0.0, "runs": [long, run_of("short")]}, {"mt/" + long["run"]: 12.5}, 295.0)
    console = Console(width=width)
    with console.capture() as capture:
        console.print(drawn(frame, width=width))
    (head, *rows) = [re.split(r"  +", line.strip()) for line in capture.get().splitlines()[-3:]]
    assert all(len(line) <= width for line in capture.get().splitlines())
    assert head[0] == "run"
    assert [len(row) for row in rows] == [len(head)] * 2
    found = dict(zip(head, rows[0], strict=True))
    assert found["run"].startswith("mt/a-very-lon")
    assert not any("…" in cell for column, cell in found.items() if column not in {"run", "firing"})
    assert found.get("step", "1,234,567") == "1,234,567"
    assert found.get("ranks", "1000/1024") == "1000/1024"
    assert ("firing" in found) == (width >= 40)
    assert ("norm" in found) == (width >= 60)
    assert (len(found) == 10) == (width >= 120)
