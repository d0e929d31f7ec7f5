"""FSDP1 clips by a method of its own: it tells the watches too, before anything is scaled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
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


def tell_of_clip(
    parameters: Iterable[Tensor], max_norm: float, clip: Callable[[], Any], *, euclidean: bool = True
) -> Any:
    """Calls a clip that is none of torch's functions, and tells the watches before and after. Returns what it does."""
    watches = () if listening.nested else registry.watches()
    if not watches:
        return clip()
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in owners if parameter.grad is not None]
    for watch in watches:
        watch.before_clip(owners, gradients, None)
    with listening:
        total = clip()
    known = total if euclidean and isinstance(total, Tensor) else None
    for watch in watches:
        watch.after_clip(owners, registry.Clip(max_norm if euclidean else None, known))
    return total


def _telling_clip(original: Any) -> Any:
    @functools.wraps(original)
    def clip_grad_norm_(self: nn.Module, max_norm: float, norm_type: float = 2.0) -> Tensor:
        clip = functools.partial(original, self, max_norm, norm_type)
        total: Tensor = tell_of_clip(self.parameters(), float(max_norm), clip, euclidean=float(norm_type) == 2.0)
        return total

    setattr(clip_grad_norm_, _MARK, original)
    return clip_grad_norm_
