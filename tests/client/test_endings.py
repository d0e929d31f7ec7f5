"""How a run ends, in whatever words it is told: the last records are delivered, and the run is closed."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import seismograd
from seismograd.capture.session import Session
from seismograd.outbox import sender as sender_module
from seismograd.testing import Ledger, RecordingTransport


class Run:
    """A watched model that has made a step."""

    def __init__(self, **options: Any) -> None:
        self.ledger = Ledger()
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        chosen: dict[str, Any] = {"project": "tests", "run": "ending", "transport": RecordingTransport(self.ledger)}
        self.monitor = seismograd.watch(self.model, self.optimizer, **(chosen | options))
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.ones(1, 2)).sum().backward()
        self.optimizer.step()
        self.monitor.log(loss=1.0)


class MuteError(Exception):
    """An exception without words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


REASONS: dict[str, tuple[Any, str]] = {
    "an exception": (ValueError("no data"), "ValueError: no data"),
    "an exception of many lines": (ValueError("a\nb"), "ValueError: a b"),
    "an exception that cannot be told": (MuteError(), "MuteError"),
    "a file name that is not UTF-8": ("cannot read caf\udce9.wav", "cannot read caf?.wav"),
    "nothing": (None, ""),
    "a path": (Path("/data/7"), "/data/7"),
    "a number": (7, "7"),
    "a book": ("x" * 10_000, "x" * 4096),
}


@pytest.mark.parametrize("case", REASONS)
def test_whatever_the_reason_is_the_run_is_closed_with_it_and_its_records_are_delivered(case: str) -> None:
    reason, told = REASONS[case]
    run = Run()

    report = run.monitor.finish("failed", reason, 10.0)

    assert (report.delivered, report.complete) == (1, True)
    assert run.ledger.closed == [("failed", told)]


def test_a_note_that_cannot_be_made_keeps_nothing_from_being_delivered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outcome: str, reason: str) -> None:
        raise TypeError(f"{outcome}, {reason}")

    monkeypatch.setattr(sender_module, "note_ending", fail)
    run = Run()

    assert run.monitor.finish("failed", "out of memory", 10.0).delivered == 1
    assert run.ledger.closed == [("failed", "out of memory")]
    assert "how the run ended cannot be noted" in caplog.text


def test_a_forgotten_monitor_ends_with_words_that_can_travel() -> None:
    run = Run()
    ending: Any = run.monitor._ending
    last_word = ending._last_word
    del run.monitor

    last_word.finish_soon("failed", "cannot read caf\udce9.wav")
    last_word.finish()

    assert run.ledger.closed == [("failed", "cannot read caf?.wav")]
    ending.cancel()


@pytest.mark.parametrize(
    ("status", "closed"),
    [
        (0, ("finished", "")),
        (None, ("finished", "")),
        (3, ("failed", "SystemExit: 3")),
        ("no data", ("failed", "SystemExit: no data")),
    ],
)
def test_a_program_that_exits_inside_the_block_has_failed_only_when_it_says_so(
    status: Any, closed: tuple[str, str]
) -> None:
    run = Run()
    with pytest.raises(SystemExit), run.monitor:
        sys.exit(status)

    assert run.ledger.closed == [closed]


def test_an_exception_that_leaves_the_block_is_told_also_when_it_is_not_unicode() -> None:
    run = Run()
    with pytest.raises(RuntimeError), run.monitor:
        raise RuntimeError("cannot read caf\udce9.wav")

    assert run.ledger.closed == [("failed", "RuntimeError: cannot read caf?.wav")]
    assert len(run.ledger.records()) == 1


# ------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_of_a_model_that_holds_its_monitor_has_an_inert_one(way: str) -> None:
    run = Run()
    run.model.monitor = run.monitor  # type: ignore[assignment]  # modules hold anything

    twin: Any = copy.deepcopy(run.model) if way == "deepcopy" else pickle.loads(pickle.dumps(run.model))

    assert repr(twin.monitor) == "<seismograd.Monitor: inert>"
    assert torch.equal(twin.weight, run.model.weight)
    twin.monitor.log(loss=1.0)
    assert twin.monitor.finish().complete
    run.step()
    assert run.monitor.finish(timeout_seconds=10.0).delivered == 2


def test_a_session_that_was_never_made_goes_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    half = Session.__new__(Session)  # what a copy that fails leaves
    del half
    gc.collect()

    assert raised == []
