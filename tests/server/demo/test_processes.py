"""The demo's children: none outlives it, and one that fails is heard."""

from __future__ import annotations

import signal
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from seismograd_server.demo.processes import Child, Children


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `child` that the test writes."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "child.py"


def started(children: Children, environment: dict[str, str] | None = None) -> Child:
    return children.start("child", ["child"], environment or {})


def test_children_are_stopped_when_the_demo_is_interrupted(script: Path, tmp_path: Path) -> None:
    script.write_text("import threading; threading.Event().wait()")
    running: list[Child] = []

    def interrupted() -> None:
        with Children(tmp_path) as children:
            running.append(started(children))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert running[0].process.returncode == -signal.SIGTERM


def test_the_last_lines_of_a_child_that_fails_are_kept(script: Path, tmp_path: Path) -> None:
    script.write_text("import sys\nfor n in range(100): print('line', n)\nsys.exit('no such data set')")
    with Children(tmp_path) as children:
        child = started(children)
        assert child.ended_within(60)
        error = child.failed()
    assert "exit code 1" in str(error)
    assert error.tail.splitlines()[-1] in {"no such data set", "line 99"}
    assert "no such data set" in error.tail
    assert len(error.tail.splitlines()) <= 15


def test_a_childs_death_by_signal_is_named(script: Path, tmp_path: Path) -> None:
    script.write_text("import os; os.kill(os.getpid(), 9)")
    with Children(tmp_path) as children:
        child = started(children)
        assert child.ended_within(60)
    assert "killed by signal 9" in str(child.failed())


def test_settings_of_the_person_do_not_reach_the_children(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEISMOGRAD_MODE", "off")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    script.write_text(
        textwrap.dedent("""\
            import os
            print(sorted(name for name in os.environ if name.startswith(("SEISMOGRAD", "TORCHELASTIC", "RANK"))))
        """)
    )
    with Children(tmp_path) as children:
        child = started(children, {"RANK": "1"})
        assert child.ended_within(60)
    assert child.tail() == "['RANK']"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_a_child_is_started_waits_until_it_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    born: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def interrupted(*arguments: Any, **keywords: Any) -> subprocess.Popen[bytes]:
        born.append(real(*arguments, **keywords))
        signal.raise_signal(number)  # the child is there, and nobody has it yet
        return born[-1]

    def interrupt(received: int, _frame: object) -> None:
        raise KeyboardInterrupt(received)

    before = signal.signal(number, interrupt)
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), Children(tmp_path) as children:
            children.start("child", ["http.server", "0"], {})
    finally:
        signal.signal(number, before)
    assert [process.poll() is not None for process in born] == [True]
