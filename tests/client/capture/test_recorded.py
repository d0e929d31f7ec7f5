"""What a capture brings to light: whole rows of every rank, and every step that follows sampled whole."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seismograd.record import Directive, DirectiveKind, Quantity, RecordKind, digest_of
from tests.client.capture.conftest import Watched
from tests.client.capture.recorder_worker import ASKED_AT, FIRST, LAST

WORKER = Path(__file__).with_name("recorder_worker.py")
WEIGHTS = {Quantity.WEIGHT_NORM, Quantity.UPDATE_NORM, Quantity.MAX_ABS}


def train(steps: int, then: Callable[[int], None] | None = None, watched: Any = None) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = None if watched is None else watched(model, optimizer)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 4, generator=torch.Generator().manual_seed(step))).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if monitor is not None and then is not None:
            monitor.monitor.log(loss=loss)
            then(step)
    return losses


def test_a_job_that_ships_totals_only_hands_over_rows_and_samples_until_the_window_ends(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a step can bear is a matter of the machine: test_budget.py.
    monkeypatch.setattr("seismograd.capture.budget._WHOLE_STEP_SHARE", float("inf"))
    begun: list[Watched] = []

    def begin(model: Any, optimizer: Any) -> Watched:
        begun.append(watch(model, optimizer, capture="global", sample_every=1000, sample_first=1))
        return begun[0]

    def ask(step: int) -> None:
        if step != 40:
            return
        ledger, sender = begun[0].ledger, begun[0].monitor._sender
        ledger.notify(directives=[Directive("d", DirectiveKind.CAPTURE_MORE, "", "", 20, 69)])
        assert sender is not None
        while sender.sample_until is None:
            time.sleep(0.005)

    losses = train(100, ask, begin)
    ordinary = begun[0].records()
    details = begun[0].ledger.records(kind=RecordKind.DETAIL)

    assert losses == train(100), "training does not notice"
    assert len(ordinary) == 100
    assert all(record.gradient_norms is None and not record.tensors for record in ordinary)
    assert [record.step for record in details] == list(range(20, 70))
    for record, plain in zip(details, ordinary[20:70], strict=True):
        assert record.gradient_norms is not None
        assert plain.total_norm is not None
        norm = np.linalg.norm(record.gradient_norms.astype(np.float64))
        np.testing.assert_allclose(norm, plain.total_norm, rtol=1e-6)
    sampled = [record.step for record in details if set(record.tensors) >= WEIGHTS]
    assert sampled == list(range(42, 70)), "from the second step behind the question on, and then back to the budget"
    (answer,) = begun[0].ledger.answers
    assert (answer.outcome, answer.reason) == ("applied", "50 records of steps 20 to 69")


def test_a_job_that_wants_nothing_sampled_is_not_sampled_for_a_capture_either(watch: Callable[..., Watched]) -> None:
    begun: list[Watched] = []

    def begin(model: Any, optimizer: Any) -> Watched:
        begun.append(watch(model, optimizer, sample_every=0))
        begun[0].ledger.notify(directives=[Directive("d", DirectiveKind.CAPTURE_MORE, "", "", 0, 30)])
        return begun[0]

    def wait(step: int) -> None:
        sender = begun[0].monitor._sender
        assert sender is not None
        while step == 5 and sender.sample_until is None:
            time.sleep(0.005)

    train(40, wait, begin)
    begun[0].records()
    details = begun[0].ledger.records(kind=RecordKind.DETAIL)
    assert [record.step for record in details] == list(range(31))
    assert not any(record.tensors for record in details)


def test_every_rank_of_a_ddp_job_hands_over_its_own_row_and_its_own_gradients(tmp_path: Path) -> None:
    outputs = [tmp_path / f"{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(tmp_path / "store"), str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
    first, second = (json.loads(output.read_text()) for output in outputs)

    assert all(record["row"] is None for record in second["steps"]), "a replica ships no row by itself"
    for rank in (first, second):
        assert rank["broken"] == {}
        assert [record["step"] for record in rank["details"]] == list(range(FIRST, LAST + 1))
        assert [answer[:2] for answer in rank["answers"]] == [["d", "applied"]]
    for one, other in zip(first["details"], second["details"], strict=True):
        assert one["row"] == other["row"], "after the all-reduce they are the same to the bit"
        assert other["digest"] == digest_of(np.frombuffer(bytes.fromhex(other["row"]), "<f4"))
    for one, other in zip(first["details"], second["details"], strict=True):
        if one["step"] > ASKED_AT + 1:
            assert one["local"] != other["local"], "before it they are not"
            assert {"WEIGHT_NORM", "UPDATE_NORM", "MAX_ABS"} <= set(other["sampled"])
