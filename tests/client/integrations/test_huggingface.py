"""The Trainer of Transformers itself trains; what is recorded equals the same training in plain torch."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from seismograd.integrations import huggingface
from seismograd.record import NormSource, Quantity, RecordKind
from seismograd.testing import RecordingServer
from tests.client.integrations.conftest import train_plainly

CLIP = 0.05
BATCH = 4


class Net(nn.Module):
    """As the Trainer wants it: the loss is an output."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.fails_at = fails_at
        self.calls = 0

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        if self.calls == self.fails_at:
            raise FloatingPointError("the loss  is NaN")
        self.calls += 1
        return {"loss": self.net(inputs).pow(2).mean()}


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)["loss"]  # type: ignore[no-any-return]  # a module's call is untyped


def data(batches: int) -> list[dict[str, Tensor]]:
    return [{"inputs": row} for row in torch.randn(batches * BATCH, 4, generator=torch.Generator().manual_seed(2))]


def batched(rows: list[dict[str, Tensor]]) -> list[Tensor]:
    return [torch.stack([row["inputs"] for row in rows[at : at + BATCH]]) for at in range(0, len(rows), BATCH)]


def make_trainer(model: nn.Module, rows: Any, root: Path, callbacks: Any = None, **settings: Any) -> Trainer:
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": CLIP,
        "train_sampling_strategy": "sequential",
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    } | settings
    return Trainer(model, TrainingArguments(str(root), **chosen), train_dataset=rows, callbacks=callbacks)


@pytest.mark.parametrize("clip", [0.0, CLIP])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_optimizer_step_is_recorded_once_before_the_trainer_clips(
    server: RecordingServer, tmp_path: Path, accumulate: int, clip: float
) -> None:
    model, rows = Net(), data(9)
    truth = train_plainly(copy.deepcopy(model), batched(rows), loss_of, accumulate=accumulate, clip=clip or None)

    trainer = make_trainer(
        model, rows, tmp_path, gradient_accumulation_steps=accumulate, max_grad_norm=clip, run_name="bert-7"
    )
    huggingface.watch(trainer, project="hf", server=server.address)
    trainer.train()

    records = truth.assert_is_recorded(server.ledger)
    assert [record.step for record in records] == list(range(9 // accumulate))
    # Without a clip the Trainer still asks torch for the norm, as a clip at infinity.
    assert {record.source for record in records} == {NormSource.CLIP}
    assert {record.scalars.get(Quantity.CLIP_THRESHOLD) for record in records} == {clip or float("inf")}
    (identity,) = server.ledger.identities.values()
    assert (identity.project, identity.run) == ("hf", "bert-7")
    assert '"learning_rate": 0.1' in identity.config_json
    assert server.ledger.closed == [("finished", "")]


def test_the_callback_alone_records_norms_and_the_loss_that_the_trainer_logs(
    server: RecordingServer, tmp_path: Path
) -> None:
    model, rows = Net(), data(6)
    truth = train_plainly(copy.deepcopy(model), batched(rows), loss_of, clip=CLIP)

    callback = huggingface.SeismogradCallback(project="hf", run="alone", server=server.address)
    make_trainer(model, rows, tmp_path, [callback], logging_steps=1).train()

    truth.assert_is_recorded(server.ledger)
    assert server.ledger.closed == [("finished", "")]


def test_an_exception_in_training_is_a_failed_run_with_its_reason(server: RecordingServer, tmp_path: Path) -> None:
    trainer = make_trainer(Net(fails_at=3), data(6), tmp_path)
    huggingface.watch(trainer, project="hf", server=server.address)
    with pytest.raises(FloatingPointError):
        trainer.train()

    assert server.ledger.closed == [("failed", "FloatingPointError: the loss is NaN")]
    assert [record.step for record in server.ledger.records()] == [0, 1, 2]


def test_an_exception_under_the_callback_alone_fails_the_run_when_its_context_ends(
    server: RecordingServer, tmp_path: Path
) -> None:
    callback = huggingface.SeismogradCallback(project="hf", server=server.address)
    with pytest.raises(FloatingPointError), callback:
        make_trainer(Net(fails_at=1), data(3), tmp_path, [callback]).train()

    assert server.ledger.closed == [("failed", "FloatingPointError: the loss is NaN")]


def test_a_training_that_begins_anew_fails_the_one_before(server: RecordingServer, tmp_path: Path) -> None:
    model = Net(fails_at=2)
    callback = huggingface.SeismogradCallback(project="hf", run="twice", server=server.address)
    trainer = make_trainer(model, data(4), tmp_path, [callback])
    with pytest.raises(FloatingPointError):
        trainer.train()
    model.fails_at = None
    trainer.train()

    assert server.ledger.closed == [("failed", "the training began anew"), ("finished", "")]


def test_a_run_that_goes_on_from_a_checkpoint_keeps_its_steps_and_tells_its_checkpoints(
    server: RecordingServer, tmp_path: Path
) -> None:
    rows = data(4)
    truth = train_plainly(Net(), batched(rows) * 2, loss_of, clip=CLIP)
    for epochs, resume in ((1, None), (2, True)):
        trainer = make_trainer(Net(), rows, tmp_path, num_train_epochs=epochs, save_strategy="epoch", run_name="on")
        huggingface.watch(trainer, project="hf", server=server.address)
        trainer.train(resume_from_checkpoint=resume)

    ledger = server.ledger
    assert [identity.run for identity in ledger.identities.values()] == ["on", "on"]
    records = [record for handle in (1, 2) for record in ledger._records[handle, 0, RecordKind.STEP].values()]
    assert [record.step for record in records] == list(range(8))
    truth.assert_are_norms_of(records, ledger)
    assert ledger.checkpoints == [(3, f"{tmp_path}/checkpoint-4"), (7, f"{tmp_path}/checkpoint-8")]


SCRIPT = """
    import sys
    sys.path.insert(0, sys.argv[3])
    from pathlib import Path
    from tests.client.integrations.test_huggingface import Net, data, make_trainer
    from seismograd.integrations.huggingface import SeismogradCallback
    callback = SeismogradCallback(project="hf", server=sys.argv[1])
    make_trainer(Net(fails_at=2), data(4), Path(sys.argv[2]), [callback]).train()
"""


def test_an_exception_that_ends_the_program_fails_the_run(server: RecordingServer, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), server.address, str(tmp_path), root],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert "FloatingPointError" in done.stderr
    assert server.ledger.closed == [("failed", "FloatingPointError: the loss is NaN")]
