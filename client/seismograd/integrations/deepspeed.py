"""DeepSpeed 0.19: an engine under watch.

    import deepspeed
    from seismograd.integrations import deepspeed as watching

    engine, optimizer, _, _ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    with watching.watch(engine, project="mt", server="localhost:7450") as monitor:
        for batch in loader:
            loss = engine(batch)
            engine.backward(loss)
            is_step = engine.is_gradient_accumulation_boundary()
            engine.step()
            if is_step:
                monitor.log(loss=loss)

DeepSpeed reduces, partitions and clips gradients where no hook of torch's sees them. What is recorded is what the
engine says after each step: `get_global_grad_norm()`, which is the norm of the whole gradient before clipping and
without the loss scale, as one total (source `framework`): no layers, no ranks. A step that overflowed is recorded as
skipped, with the loss scale that was too large. Micro-batches before the boundary of accumulation make no record.
Only ZeRO 0 in float32 leaves the gradients with a torch optimizer: that one is watched as everywhere, with layers.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from seismograd.capture.flat_clip import tell_of_clip
from seismograd.capture.reported import Reading, ReportedSteps
from seismograd.monitor import Monitor
from seismograd.monitor import watch as begin_watch


def watch(engine: Any, **options: Any) -> Monitor:
    """Watches the engine that `deepspeed.initialize` has returned; `options` are those of `seismograd.watch`."""
    options = {"config": engine.config, "step": engine.global_steps} | options
    if isinstance(engine.optimizer, torch.optim.Optimizer):
        clip = engine.clip_fp32_gradients
        engine.clip_fp32_gradients = lambda: tell_of_clip(engine.module.parameters(), engine.gradient_clipping(), clip)
        return begin_watch(engine.module, engine.optimizer, **options)
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    strategy = f"deepspeed zero {engine.zero_optimization_stage()}"
    steps = ReportedSteps(functools.partial(_read, engine), strategy, optimizer=type(inner).__qualname__)
    monitor = begin_watch(engine.module, steps, **options)  # type: ignore[arg-type]  # it stands for the optimizer
    original = engine.step

    @functools.wraps(original)
    def step(*arguments: Any, **keywords: Any) -> Any:
        steps.step_begins()
        result = original(*arguments, **keywords)
        steps.step_ended()
        return result

    engine.step = step
    return monitor


def _read(engine: Any) -> Reading:
    norm = engine.get_global_grad_norm()
    if norm is not None and not isinstance(norm, torch.Tensor) and norm < 0.0:
        norm = float("nan")  # how DeepSpeed marks a norm that is not finite
    rates = engine.get_lr()
    scale = getattr(engine.optimizer, "loss_scale", None) if engine.fp16_enabled() else None
    return Reading(
        steps=engine.global_steps,
        skipped=engine.skipped_steps,
        norm=norm,
        learning_rate=float(rates[0]) if rates else None,
        loss_scale=None if scale is None else float(scale),
        clip_threshold=engine.gradient_clipping() or None,
    )
