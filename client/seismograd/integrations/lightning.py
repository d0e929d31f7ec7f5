"""Lightning 2.6: a callback for `fit`.

    import lightning
    from seismograd.integrations.lightning import SeismogradCallback

    watching = SeismogradCallback(project="mt", run="lstm-7", server="localhost:7450")
    trainer = lightning.Trainer(callbacks=[watching], gradient_clip_val=1.0)
    trainer.fit(model, loader)

Every optimizer is watched, under automatic and manual optimization, and one record is made per optimizer step however
many batches are accumulated. Norms are taken before Lightning clips, and behind its unscaling under `16-mixed`. A
fused optimizer there unscales inside its own kernel, for which Lightning refuses to clip: its norms are divided by the
loss scale. FSDP1 clips by a method of its own, which nothing reaches: there the norms are those behind the clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from seismograd.ending import describe_error
from seismograd.integrations.microbatches import MicroBatches
from seismograd.monitor import Monitor, watch


class SeismogradCallback(pl.Callback):
    """Watches what `Trainer.fit` trains; a run that is resumed from a checkpoint goes on under its name.

    Args:
        options: what `seismograd.watch` takes, by name; `config` is the module's `hparams` by default.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._monitor: Monitor | None = None
        self._resumed: dict[str, Any] = {}
        self._losses = MicroBatches()
        self._next_step = 0

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the latest `fit`, for `should_stop()` and the like; None before it."""
        return self._monitor

    # Only now has Lightning restored its counters, and the sanity check's forward passes are over.
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to watch."""
        defaults: dict[str, Any] = {"config": dict(pl_module.hparams), "step": trainer.global_step}
        self._monitor = watch(trainer.model, trainer.optimizers, **(defaults | self._resumed | self._options))
        self._next_step = self._monitor.next_step
        self._losses = MicroBatches()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the batch's loss, and logs that of a step when one was made."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self._losses.add(loss if isinstance(loss, (Tensor, float)) else None)
        if self._monitor is None or self._monitor.next_step == self._next_step:
            return
        self._next_step = self._monitor.next_step
        # Under automatic optimization Lightning has divided each loss by the number of batches it accumulates.
        total = self._losses.take_sum() if pl_module.automatic_optimization else self._losses.take_mean()
        self._monitor.log(loss=total)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Ends the run as failed, and says why."""
        if self._monitor is not None:
            self._monitor.finish("failed", describe_error(exception))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ends the run."""
        if self._monitor is not None and stage == "fit":
            self._monitor.finish()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: under which name and at which step the run goes on."""
        if self._monitor is None or self._monitor.run is None:
            return dict(self._resumed)
        return {"run": self._monitor.run, "step": self._monitor.next_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint; what was given by hand still counts more."""
        self._resumed = dict(state_dict)
