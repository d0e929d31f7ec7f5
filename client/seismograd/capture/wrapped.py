"""Optimizers that frameworks wrap (Accelerate, Lightning): the hooks that fire are those of the one inside."""

from __future__ import annotations

from typing import TypeVar

import torch

Optimizer = TypeVar("Optimizer", bound=object)


def innermost(optimizer: Optimizer) -> Optimizer | torch.optim.Optimizer:
    """The optimizer inside all wrappers; itself when it is none."""
    found: Optimizer | torch.optim.Optimizer = optimizer
    while isinstance(inner := getattr(found, "optimizer", None), torch.optim.Optimizer):
        found = inner
    return found
