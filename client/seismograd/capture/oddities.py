"""Arguments that can be worked with, but hardly are what was meant: said once, when a watch begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seismograd.arguments import shown
from seismograd.capture import registry
from seismograd.capture.draft import single_number
from seismograd.capture.reported import ReportedSteps
from seismograd.capture.stepwatch import OptimizerWatch
from seismograd.capture.together import step_together
from seismograd.capture.wrapped import innermost
from seismograd.names import MOST_OPTIMIZERS

_log = logging.getLogger("seismograd")


def as_many_as_fit(optimizers: Sequence[torch.optim.Optimizer]) -> Sequence[torch.optim.Optimizer]:
    """The optimizers, or the first of them where the server would refuse a run of so many; that is said."""
    if len(optimizers) <= MOST_OPTIMIZERS or step_together([innermost(each) for each in optimizers]):
        return optimizers
    _log.warning(
        "optimizer: %d are given, and the server takes %d of a run; the first %d are watched, so give those first that"
        " matter most; those of one parameter each, which step inside the backward pass, count as one",
        len(optimizers),
        MOST_OPTIMIZERS,
        MOST_OPTIMIZERS,
    )
    return optimizers[:MOST_OPTIMIZERS]


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
    for optimizer in optimizers:
        rate = optimizer.param_groups[0].get("lr") if optimizer.param_groups else None
        if rate is not None and single_number(rate) is None:
            _log.warning(
                "optimizer: the lr of the %s, %s, is no single number, so that its steps are recorded without a"
                " learning rate; give a float, or a tensor of one element",
                type(optimizer).__name__,
                f"a tensor of {rate.numel()} elements" if isinstance(rate, Tensor) else shown(rate),
            )
            break
    if not parameters:
        _log.warning("optimizer: none of its parameters requires a gradient, so that there are no norms to record")
    elif model is not None and not {id(each) for each in parameters} & {id(each) for each in model.parameters()}:
        _log.warning(
            "model: the %s has none of the optimizer's parameters, so that these have no names; give the model that the"
            " optimizer trains",
            type(model).__name__,
        )
