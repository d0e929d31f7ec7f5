"""What torch's own clipping computes of DTensors, overheard while it does: each norm, and what it scales by.

torch takes the norm of every gradient, stacks the norms and takes the norm of that, with collectives where placements
ask for them. Per-tensor norms carry the placements that this leads to: a summand has been added up over the processes
(Partial became Replicate), a shard has not (Shard became _NormPartial). Nothing here calls into torch by itself, so
that the result and the collectives are exactly those of a run without us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seismograd.capture.norms import foreach_norm


class _Listener(TorchFunctionMode):
    """While it is entered, hears what torch's functions give."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch instead of each of its functions."""
        del types
        result = function(*args, **(kwargs or {}))
        self._hear(function, args, result)
        return result

    def _hear(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        raise NotImplementedError


class Overheard(_Listener):
    """While it is entered, remembers the norm of every one of some gradients that somebody computes."""

    def __init__(self, gradients: Iterable[Tensor]) -> None:
        super().__init__()
        self._places = {id(gradient): place for place, gradient in enumerate(gradients)}
        self.norms: list[Tensor | None] = [None] * len(self._places)

    def _hear(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        if function is foreach_norm:
            self._note(args[0], result)
        elif function is torch.linalg.vector_norm:
            self._note((args[0],), (result,))

    def _note(self, tensors: Iterable[Tensor], norms: Iterable[Tensor]) -> None:
        for tensor, norm in zip(tensors, norms, strict=True):
            place = self._places.get(id(tensor))
            if place is not None:
                self.norms[place] = norm


class OverheardCoefficient(_Listener):
    """While it is entered, remembers what a clip multiplies the gradients by: the one number that torch clamps there.

    Up to torch 2.9 the total norm of sharded gradients stays a norm of each process's shards; only the coefficient is
    the same everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.coefficient: Tensor | None = None

    def _hear(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        del args
        if function is torch.clamp:
            self.coefficient = result
