"""Lightning itself trains; what is recorded equals the same training in plain torch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from seismograd.integrations.lightning import SeismogradCallback
from seismograd.record import NormSource, Quantity, RecordFlag, RecordKind
from seismograd.testing import RecordingServer
from tests.client.integrations.conftest import Truth, norms_of, train_plainly

# Lightning's advice about worker processes, and what it still uses of an older torch, are not what is tested.
pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]

CLIP = 0.05


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).pow(2).mean()  # type: ignore[no-any-return]  # a module's call is untyped


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


class Plain(pl.LightningModule):
    """Automatic optimization."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = net()
        self.fails_at = fails_at

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        if batch_index == self.fails_at:
            raise FloatingPointError("the loss  is NaN")
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Adversarial(pl.LightningModule):
    """Manual optimization with two optimizers; the second one steps at every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = net(), net()
        self.truths = [Truth(), Truth()]

    def training_step(self, batch: Tensor, batch_index: int) -> dict[str, Tensor]:
        optimizers: Any = self.optimizers()
        losses = []
        for place, part in enumerate((self.generator, self.critic)):
            if place == 1 and batch_index % 2:
                continue
            loss = loss_of(part, batch)
            optimizers[place].zero_grad()
            self.manual_backward(loss)
            self.truths[place].norms.append(norms_of(part))
            self.clip_gradients(optimizers[place], CLIP, "norm")
            optimizers[place].step()
            losses.append(loss)
        self.truths[0].losses.append(losses[0].item())
        return {"loss": losses[0]}

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        return (
            torch.optim.SGD(self.generator.parameters(), lr=0.1),
            torch.optim.Adam(self.critic.parameters(), lr=0.01),
        )


def batches(count: int, first: int = 0) -> list[Tensor]:
    return [torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(first, first + count)]


def make_trainer(callback: SeismogradCallback, root: Path, **settings: Any) -> pl.Trainer:
    chosen: dict[str, Any] = {"max_epochs": 1, "callbacks": [callback], "default_root_dir": root} | settings
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **chosen,
    )


def loader(data: list[Tensor]) -> DataLoader[Any]:
    return DataLoader(data, batch_size=None)  # type: ignore[arg-type]  # a list is a dataset


def make_callback(server: RecordingServer, **options: Any) -> SeismogradCallback:
    return SeismogradCallback(project="lightning", server=server.address, **options)


@pytest.mark.parametrize("clip", [None, CLIP])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_optimizer_step_is_recorded_once_before_lightning_clips(
    server: RecordingServer, tmp_path: Path, accumulate: int, clip: float | None
) -> None:
    module = Plain()
    data = batches(9)
    truth = train_plainly(copy.deepcopy(module.net), data, loss_of, accumulate=accumulate, clip=clip)

    trainer = make_trainer(
        make_callback(server, run="net"), tmp_path, accumulate_grad_batches=accumulate, gradient_clip_val=clip
    )
    trainer.fit(module, loader(data))

    records = truth.assert_is_recorded(server.ledger, prefix="net.")
    assert [record.step for record in records] == list(range(9 // accumulate))
    assert {record.source for record in records} == {NormSource.CLIP if clip else NormSource.OPTIMIZER_STEP}
    assert {record.scalars.get(Quantity.CLIP_THRESHOLD) for record in records} == {clip}
    assert [each.name for each in server.ledger.catalogs[0].parameters][:2] == ["net.0.weight", "net.0.bias"]
    (identity,) = server.ledger.identities.values()
    assert (identity.project, identity.run, identity.config_json) == ("lightning", "net", '{"fails_at": null}')
    assert server.ledger.closed == [("finished", "")]


def test_manual_optimization_with_two_optimizers_makes_a_series_of_each(
    server: RecordingServer, tmp_path: Path
) -> None:
    module = Adversarial()

    make_trainer(make_callback(server, run="gan"), tmp_path).fit(module, loader(batches(6)))

    for optimizer, (truth, prefix) in enumerate(zip(module.truths, ("generator.", "critic."), strict=True)):
        records = truth.assert_is_recorded(server.ledger, optimizer, prefix)
        assert {record.source for record in records} == {NormSource.CLIP}
    assert len(server.ledger.records(1)) == 3


def test_under_a_loss_scaler_norms_are_unscaled_and_a_skipped_step_is_marked(
    server: RecordingServer, tmp_path: Path
) -> None:
    class Overflowing(Plain):
        def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
            return super().training_step(batch, batch_index) * (float("inf") if batch_index == 2 else 1.0)

    module = Overflowing()
    data = batches(5)
    truth = train_plainly(copy.deepcopy(module.net), data[:2], loss_of, clip=CLIP)
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    # The scaler is what is tested; half precision would blur the norms.
    precision.autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)  # type: ignore[method-assign]  # see above

    trainer = make_trainer(make_callback(server, run="amp"), tmp_path, plugins=[precision], gradient_clip_val=CLIP)
    trainer.fit(module, loader(data))

    assert server.ledger.wait_for(lambda ledger: len(ledger.records()) == 5)
    records = server.ledger.records()
    truth.assert_are_norms_of(records[:2], server.ledger, prefix="net.")
    assert [RecordFlag.SKIPPED_BY_SCALER in record.flags for record in records] == [False, False, True, False, False]
    assert [record.scalars[Quantity.LOSS_SCALE] for record in records] == [1024.0] * 3 + [512.0] * 2


def test_an_exception_in_training_is_a_failed_run_with_its_reason(server: RecordingServer, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        make_trainer(make_callback(server), tmp_path).fit(Plain(fails_at=3), loader(batches(6)))

    assert server.ledger.closed == [("failed", "FloatingPointError: the loss is NaN")]
    assert [record.step for record in server.ledger.records()] == [0, 1, 2]


def test_a_run_that_goes_on_from_a_checkpoint_keeps_its_name_and_its_steps(
    server: RecordingServer, tmp_path: Path
) -> None:
    data = batches(4)
    truth = train_plainly(copy.deepcopy(Plain().net), data * 2, loss_of)
    first = make_trainer(make_callback(server), tmp_path)
    first.fit(Plain(), loader(data))
    first.save_checkpoint(tmp_path / "last.ckpt")

    resumed = make_callback(server)
    make_trainer(resumed, tmp_path, max_epochs=2).fit(Plain(), loader(data), ckpt_path=tmp_path / "last.ckpt")

    runs = [identity.run for identity in server.ledger.identities.values()]
    assert runs[0] == runs[1]
    assert resumed.monitor is not None
    assert resumed.monitor.run == runs[0]
    records = [r for handle in (1, 2) for r in server.ledger._records[handle, 0, RecordKind.STEP].values()]
    assert [record.step for record in records] == list(range(8))
    truth.assert_are_norms_of(records, server.ledger, prefix="net.")
