"""The loss scaler under interception: steps that it skips never reach the optimizer's hooks.

`GradScaler.step` unscales, then steps or skips. The watch hears before and after; if no step came in between, it was
skipped, and the gradients with their Inf and NaN are still there to be counted. The scale in force is read before
`update()` changes it. `unscale_` changes gradients without a trace in their version counters, so it is listened to as
well: a norm taken before it is not the norm of what the step uses.
"""

from __future__ import annotations

import functools
from typing import Any

import torch.amp
from torch import Tensor

from seismograd.capture import registry
from seismograd.capture.wrapped import innermost

_MARK = "seismograd_original"


class ScalerInterception:
    """Two methods of `torch.amp.GradScaler` tell the watches, from construction to `restore()`; subclasses inherit."""

    def __init__(self) -> None:
        self._originals: dict[str, Any] = {}
        self._replacements: dict[str, Any] = {}
        for name, telling in (("step", _telling_step), ("unscale_", _telling_unscale)):
            method = getattr(torch.amp.GradScaler, name)
            self._originals[name] = getattr(method, _MARK, method)
            self._replacements[name] = telling(self._originals[name])
            setattr(torch.amp.GradScaler, name, self._replacements[name])

    def restore(self) -> None:
        """Lets torch be as it was, unless somebody else has replaced a method since."""
        for name, method in self._originals.items():
            if getattr(torch.amp.GradScaler, name) is self._replacements[name]:
                setattr(torch.amp.GradScaler, name, method)


def _telling_step(original: Any) -> Any:
    @functools.wraps(original)
    def step(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> float | None:
        watches = _watches_of(optimizer)
        if not watches or not self.is_enabled():
            return original(self, optimizer, *args, **kwargs)  # type: ignore[no-any-return]  # torch's own
        scale: Tensor | None = getattr(self, "_scale", None)
        for watch in watches:
            watch.scaler_begins(scale)
        try:
            result: float | None = original(self, optimizer, *args, **kwargs)
        except BaseException:
            for watch in watches:
                watch.scaler_begins(None)
            raise
        for watch in watches:
            watch.scaler_ended()
        return result

    setattr(step, _MARK, original)
    return step


def _telling_unscale(original: Any) -> Any:
    @functools.wraps(original)
    def unscale_(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        original(self, optimizer)
        if self.is_enabled():
            for watch in _watches_of(optimizer):
                watch.unscaled()

    setattr(unscale_, _MARK, original)
    return unscale_


def _watches_of(optimizer: object) -> list[registry.Watch]:
    return [watch for watch in registry.watches() if watch.is_of(innermost(optimizer))]
