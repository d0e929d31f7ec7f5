"""DeepSpeed: against a double with the engine's public attributes, and against the library where it is installed."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seismograd.integrations import deepspeed as watching
from seismograd.record import TOTAL_ONLY, NormSource, Quantity, RecordFlag, StepRecord
from seismograd.testing import RecordingTransport

PROGRAM = Path(__file__).parent / "programs" / "zero.py"
WORLD = 2


class HiddenOptimizer:
    """Partitions and clips out of sight, as ZeRO's does."""

    def __init__(self) -> None:
        self.loss_scale = 1024.0
        self.optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])


class Engine:
    """What the adapter uses of a DeepSpeedEngine."""

    def __init__(self, accumulation: int = 1, *, half: bool = True) -> None:
        self.module = nn.Linear(3, 3)
        self.optimizer: Any = HiddenOptimizer()
        self.config = {"zero_optimization": {"stage": 2}, "hub": {"hf_token": "hunter2"}}
        self.global_steps = self.skipped_steps = self._micro_steps = 0
        self.norm: Any = None
        self.rate = 0.1
        self.next: list[tuple[Any, bool]] = []  # norm and overflow of the steps to come
        self._accumulation, self._half = accumulation, half

    def step(self) -> str:
        self._micro_steps += 1
        if self._micro_steps % self._accumulation == 0:
            self.norm, overflow = self.next.pop(0)
            self.global_steps += 1
            self.skipped_steps += overflow
            self.optimizer.loss_scale *= 0.5 if overflow else 1.0
            self.rate /= 2.0  # the schedule
        return "whatever the engine returns"

    def get_global_grad_norm(self) -> Any:
        return self.norm

    def get_lr(self) -> list[float]:
        return [self.rate]

    def zero_optimization_stage(self) -> int:
        return 2

    def gradient_clipping(self) -> float:
        return 1.0

    def fp16_enabled(self) -> bool:
        return self._half


def train(engine: Engine, *steps: tuple[Any, bool]) -> list[StepRecord]:
    """Trains a double under watch, logging a loss for each step."""
    transport = RecordingTransport()
    monitor = watching.watch(engine, project="tests", run="zero", transport=transport)
    engine.next = list(steps)
    while engine.next:
        before = engine.global_steps
        assert engine.step() == "whatever the engine returns"
        if engine.global_steps > before:
            monitor.log(loss=1.0)
    assert monitor.finish(timeout_seconds=20.0).complete
    for identity in transport.ledger.identities.values():
        assert identity.strategy == "deepspeed zero 2"
        assert "hunter2" not in identity.config_json
    return transport.ledger.records()


def test_each_step_is_one_total_as_the_framework_tells_it() -> None:
    records = train(Engine(), (4.0, False), (torch.tensor(0.5), False))

    assert [(record.step, record.source, record.total_norm) for record in records] == [
        (0, NormSource.FRAMEWORK, 4.0),
        (1, NormSource.FRAMEWORK, 0.5),
    ]
    assert all(record.gradient_norms is None and record.digest is None for record in records)
    assert [record.flags for record in records] == [RecordFlag.CLIPPED, 0]
    first = records[0].scalars
    assert (first[Quantity.LEARNING_RATE], first[Quantity.LOSS_SCALE], first[Quantity.LOSS]) == (0.1, 1024.0, 1.0)
    assert first[Quantity.CLIP_COEFFICIENT] == pytest.approx(0.25, rel=1e-5)


def test_an_overflow_is_back_off_with_the_scale_that_was_too_large() -> None:
    overflow, after = train(Engine(), (math.inf, True), (2.0, False))

    assert (overflow.source, overflow.flags) == (NormSource.SCALER_SKIP, RecordFlag.SKIPPED_BY_SCALER)
    assert overflow.total_norm is not None
    assert math.isnan(overflow.total_norm)
    assert overflow.nonfinite is None
    assert (overflow.scalars[Quantity.LOSS_SCALE], after.scalars[Quantity.LOSS_SCALE]) == (1024.0, 512.0)


def test_micro_batches_before_the_boundary_make_no_record() -> None:
    records = train(Engine(accumulation=3), (1.0, False), (2.0, False))

    assert [record.total_norm for record in records] == [1.0, 2.0]


@pytest.mark.parametrize(("norm", "kind"), [(math.nan, "nan"), (math.inf, "positive_inf"), (-1.0, "nan")])
def test_a_norm_that_is_not_finite_is_counted_for_the_total(norm: float, kind: str) -> None:
    (record,) = train(Engine(half=False), (norm, False))

    assert record.nonfinite is not None
    assert record.nonfinite.parameters.tolist() == [TOTAL_ONLY]
    assert getattr(record.nonfinite, f"{kind}_counts").tolist() == [1]
    assert Quantity.LOSS_SCALE not in record.scalars
    assert Quantity.REPORTED_NORM not in record.scalars


def test_an_engine_that_computes_no_norm_is_recorded_without_one() -> None:
    (record,) = train(Engine(), (None, False))

    assert record.total_norm is not None
    assert math.isnan(record.total_norm)
    assert record.nonfinite is None


def test_what_the_engine_cannot_say_does_not_reach_training(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()

    def refuse() -> list[float]:
        raise RuntimeError("no schedule")

    engine.get_lr = refuse  # type: ignore[method-assign]  # an engine of another version
    records = train(engine, (1.0, False), (2.0, False))

    assert records == []
    assert sum("no schedule" in record.message for record in caplog.records) == 1


# ------------------------------------------------------------------------------------------------ the real library


def train_zero(folder: Path, stage: int, kind: str) -> list[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    outputs = [folder / f"{stage}-{kind}-{rank}.json" for rank in range(WORLD)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(WORLD), str(port), str(stage), kind, str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        text, _ = process.communicate(timeout=300)  # the first time DeepSpeed compiles an operator
        assert process.returncode == 0, text
    return [json.loads(output.read_text()) for output in outputs]


@pytest.mark.parametrize(("stage", "kind"), [(0, "fp32"), (1, "fp16"), (2, "bf16")])
def test_zero_is_recorded_as_it_trains(tmp_path: Path, stage: int, kind: str) -> None:
    for told in train_zero(tmp_path, stage, kind):
        assert told["broken"] == {}
        assert [record["step"] for record in told["records"]] == list(range(6))
        assert all(record["learning_rate"] == 0.01 for record in told["records"])
        assert all(record["clip_threshold"] == 0.05 for record in told["records"])
        assert all("loss" in record for record in told["records"])
        if stage == 0:
            # Layers, taken before DeepSpeed's own clip: behind it the total would be 0.05.
            assert {record["source"] for record in told["records"]} == {"CLIP"}
            assert all(math.hypot(*record["norms"]) > 0.06 for record in told["records"])
            continue
        assert told["strategy"] == f"deepspeed zero {stage}"
        skipped = [record for record in told["records"] if record["source"] == "SCALER_SKIP"]
        assert bool(skipped) == (kind == "fp16")
        scales = [record["loss_scale"] for record in skipped]
        assert scales == [2.0 ** (21 - place) for place in range(len(scales))]
        for record, norm in zip(told["records"], told["norms"], strict=True):
            if record not in skipped:
                assert record["source"] == "FRAMEWORK"
                assert record["total"] == pytest.approx(norm, rel=1e-6)
                assert 0.05 < record["total"] < 1.0
