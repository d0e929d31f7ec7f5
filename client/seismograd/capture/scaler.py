"""The loss scaler under interception: steps that it skips never reach the optimizer's hooks.

`GradScaler.step` unscales, then steps or skips. The watch hears before and after; if no step came in between, it was
skipped, and the gradients with their Inf and NaN are still there to be counted. The scale in force is read before
`update()` changes it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch.amp
from torch import Tensor

from seismograd.capture import registry

_MARK = "seismograd_original"


class ScalerInterception:
    """`torch.amp.GradScaler.step` tells the watches, from construction to `restore()`; its subclasses inherit it."""

    def __init__(self) -> None:
        self._original = getattr(torch.amp.GradScaler.step, _MARK, torch.amp.GradScaler.step)
        self._replacement = _telling(self._original)
        torch.amp.GradScaler.step = self._replacement  # type: ignore[method-assign]  # reversible, see restore()

    def restore(self) -> None:
        """Lets torch be as it was, unless somebody else has replaced the method since."""
        if torch.amp.GradScaler.step is self._replacement:
            torch.amp.GradScaler.step = self._original  # type: ignore[method-assign]  # as above


def _telling(original: Any) -> Any:
    @functools.wraps(original)
    def step(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        watches = [watch for watch in registry.watches() if watch.is_of(_innermost(optimizer))]
        if not watches or not self.is_enabled():
            return original(self, optimizer, *args, **kwargs)  # type: ignore[no-any-return]  # torch's own
        scale: Tensor | None = getattr(self, "_scale", None)
        for watch in watches:
            watch.scaler_begins(scale)
        result: float | None = original(self, optimizer, *args, **kwargs)
        for watch in watches:
            watch.scaler_ended()
        return result

    setattr(step, _MARK, original)
    return step


def _innermost(optimizer: object) -> object:
    """The optimizer inside a wrapper such as Accelerate's, whose hooks are the ones that fire."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if isinstance(inner, torch.optim.Optimizer) else optimizer
