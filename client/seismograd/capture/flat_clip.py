"""FSDP1 clips by a method of its own: it tells the watches too, before anything is scaled."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from seismograd.capture import registry
from seismograd.capture.clip import listening

_MARK = "seismograd_original"


class FlatClipInterception:
    """The method of `FullyShardedDataParallel` tells the watches, from construction to `restore()`."""

    def __init__(self) -> None:
        from torch.distributed.fsdp import FullyShardedDataParallel  # noqa: PLC0415 - imported by whoever uses it

        owner: Any = FullyShardedDataParallel
        self._owner = owner
        method = self._owner.clip_grad_norm_
        self._original = getattr(method, _MARK, method)
        self._replacement = _telling_clip(self._original)
        self._owner.clip_grad_norm_ = self._replacement

    def restore(self) -> None:
        """Lets torch be as it was, unless somebody else has replaced the method since."""
        if self._owner.clip_grad_norm_ is self._replacement:
            self._owner.clip_grad_norm_ = self._original


def _telling_clip(original: Any) -> Any:
    @functools.wraps(original)
    def clip_grad_norm_(self: nn.Module, max_norm: float, norm_type: float = 2.0) -> Tensor:
        watches = () if listening.nested else registry.watches()
        if not watches:
            return original(self, max_norm, norm_type)  # type: ignore[no-any-return]  # torch's own
        owners: list[Tensor] = [parameter for parameter in self.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in owners if parameter.grad is not None]
        for watch in watches:
            watch.before_clip(owners, gradients, None)
        with listening:
            total: Tensor = original(self, max_norm, norm_type)
        euclidean = float(norm_type) == 2.0
        for watch in watches:
            watch.after_clip(owners, float(max_norm) if euclidean else None, total if euclidean else None)
        return total

    setattr(clip_grad_norm_, _MARK, original)
    return clip_grad_norm_
