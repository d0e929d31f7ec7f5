"""Accelerate 1.15: a loop that accumulates gradients, under watch.

    from accelerate import Accelerator
    from seismograd.integrations import accelerate as watching

    accelerator = Accelerator(gradient_accumulation_steps=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with watching.watch(accelerator, model, optimizer, project="mt", server="localhost:7450") as watched:
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = compute_loss(model(inputs), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            watched.log(loss=loss)  # for every batch; a step gets the mean of its batches

Norms are taken before `clip_grad_norm_` scales, one record per true optimizer step; a step that the loss scaler skips
(`step_was_skipped`) is recorded as such. Under DeepSpeed nothing is recorded: its engine is no torch optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

from seismograd.integrations.microbatches import MicroBatches
from seismograd.monitor import Monitor
from seismograd.monitor import watch as begin_watch


def watch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    **options: Any,
) -> AcceleratedMonitor:
    """Watches what `accelerator.prepare` has returned; `options` are those of `seismograd.watch`."""
    return AcceleratedMonitor(accelerator, begin_watch(model, optimizer, **options))


class AcceleratedMonitor:
    """Logs by batch; `monitor` has the rest. As a context it ends the run, as failed when an exception leaves it."""

    def __init__(self, accelerator: Accelerator, monitor: Monitor) -> None:
        self.monitor = monitor
        self._accelerator = accelerator
        self._losses = MicroBatches()

    def log(self, *, loss: torch.Tensor | float | None = None, batch: object = None) -> None:
        """Call it for every batch; a step is logged when its last batch has come. No synchronisation."""
        self._losses.add(loss)
        if self._accelerator.sync_gradients:
            self.monitor.log(loss=self._losses.take_mean(), batch=batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.monitor.__exit__(kind, error, traceback)
