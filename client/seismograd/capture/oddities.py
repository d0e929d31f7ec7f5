"""Arguments that can be worked with, but hardly are what was meant: said once, when a watch begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seismograd.capture import registry
from seismograd.capture.reported import ReportedSteps
from seismograd.capture.stepwatch import OptimizerWatch

_log = logging.getLogger("seismograd")


def say_what_is_odd(
    model: nn.Module | None, optimizers: Sequence[torch.optim.Optimizer], parameters: Sequence[Tensor]
) -> None:
    """`parameters` are those that will have a column. Call it before these optimizers are registered."""
    # Others that listen (a program watched from outside) record nothing by themselves.
    watching = [watch for watch in registry.watches() if isinstance(watch, OptimizerWatch)]
    if any(watch.is_of(optimizer) for watch in watching for optimizer in optimizers):
        _log.warning(
            "optimizer: it is watched already, so that each step is recorded twice; call finish() on the first monitor"
        )
    if any(isinstance(each, ReportedSteps) for each in optimizers):
        return
    if not parameters:
        _log.warning("optimizer: none of its parameters requires a gradient, so that there are no norms to record")
    elif model is not None and not {id(each) for each in parameters} & {id(each) for each in model.parameters()}:
        _log.warning(
            "model: the %s has none of the optimizer's parameters, so that these have no names; give the model that the"
            " optimizer trains",
            type(model).__name__,
        )
