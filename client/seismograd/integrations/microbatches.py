"""The loss of a step that is made of several micro-batches."""

from __future__ import annotations

from torch import Tensor


class MicroBatches:
    """Adds losses up where they are: on a device without a synchronisation."""

    def __init__(self) -> None:
        self._sum: Tensor | float | None = None
        self._count = 0

    def add(self, loss: Tensor | float | None) -> None:
        """Takes the loss of one micro-batch; None counts as absent."""
        if loss is None:
            return
        value = loss.detach() if isinstance(loss, Tensor) else loss
        # The framework may change its tensor in place before the step is made.
        self._sum = value * 1.0 if self._sum is None else self._sum + value
        self._count += 1

    def take_sum(self) -> Tensor | float | None:
        """Their sum, for losses that are scaled by the number of micro-batches already; None without any."""
        total, self._sum, self._count = self._sum, None, 0
        return total

    def take_mean(self) -> Tensor | float | None:
        """Their mean; None without any."""
        count = self._count
        total = self.take_sum()
        return None if total is None else total / count
