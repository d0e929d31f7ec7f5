"""Transformers 5: a Trainer under watch.

    from transformers import Trainer, TrainingArguments
    from seismograd.integrations import huggingface

    trainer = Trainer(model, TrainingArguments("out", run_name="bert-7"), train_dataset=dataset)
    huggingface.watch(trainer, project="mt", server="localhost:7450")
    trainer.train()

Norms are taken before the Trainer clips, one record per optimizer step however many batches are accumulated, with the
loss that the Trainer computes for it, without a synchronisation. When `train()` raises, the run has failed.

`Trainer(callbacks=[SeismogradCallback(project="mt")])` alone does without the Trainer: the loss is then what the
Trainer logs, every `logging_steps`, and a failure is known when it ends the program, or at once in a `with callback:`.
Under DeepSpeed nothing is recorded: its engine is no torch optimizer.
"""

from __future__ import annotations

import functools
from types import TracebackType
from typing import Any, Self

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from seismograd.ending import describe_error
from seismograd.integrations.microbatches import MicroBatches
from seismograd.monitor import Monitor
from seismograd.monitor import watch as begin_watch


def watch(trainer: Trainer, **options: Any) -> SeismogradCallback:
    """Watches all that this Trainer trains; `options` are those of `seismograd.watch`. Returns the callback."""
    callback = SeismogradCallback(**options)
    callback.attach(trainer)
    return callback


class SeismogradCallback(TrainerCallback):
    """Watches what `Trainer.train` trains. The run is named by `TrainingArguments.run_name`, unless `run` is given."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._trainer: Trainer | None = None
        self._losses = MicroBatches()
        self.monitor: Monitor | None = None  # of the latest training

    def attach(self, trainer: Trainer) -> None:
        """Hears from now on what the Trainer tells no callback: the loss of each batch, and how `train()` ends."""
        trainer.add_callback(self)
        self._trainer = trainer
        training_step, train = trainer.training_step, trainer.train

        @functools.wraps(training_step)
        def heard_training_step(*arguments: Any, **keywords: Any) -> torch.Tensor:
            loss = training_step(*arguments, **keywords)
            self._losses.add(loss)
            return loss

        @functools.wraps(train)
        def heard_train(*arguments: Any, **keywords: Any) -> Any:
            with self:
                return train(*arguments, **keywords)

        trainer.training_step, trainer.train = heard_training_step, heard_train  # type: ignore[method-assign]  # the seats

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins to watch."""
        self._finish("failed", "the training began anew")  # out of memory under auto_find_batch_size
        self._losses = MicroBatches()
        model = kwargs["model"] if self._trainer is None else self._trainer.model_wrapped
        defaults = {"run": args.run_name, "config": args.to_sanitized_dict(), "step": state.global_step}
        self.monitor = begin_watch(model, kwargs["optimizer"], **(defaults | self._options))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Logs the loss of the step; the Trainer has divided those of its batches."""
        if self.monitor is not None and (loss := self._losses.take_sum()) is not None:
            self.monitor.log(loss=loss)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Without the Trainer its own mean over the latest steps is the loss that can be had."""
        if self.monitor is not None and self._trainer is None and logs is not None and "loss" in logs:
            self.monitor.log(loss=float(logs["loss"]))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tells of the checkpoint: an alert can name the last good one."""
        if self.monitor is not None:
            self.monitor.checkpoint_saved(state.global_step - 1, f"{args.output_dir}/checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the run."""
        self._finish()

    def _finish(self, *outcome: Any) -> None:
        if self.monitor is not None:
            self.monitor.finish(*outcome)  # only the first call counts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(*(() if error is None else ("failed", describe_error(error))))
