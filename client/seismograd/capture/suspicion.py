"""Which parameters deserve a closer look on a device where the first look comes too late to act on.

On the host a norm of zero, Inf or NaN is looked into at once. On an accelerator its value is known only steps later,
when the gradient is gone: from then on, for a while, these parameters are counted on every step.
"""

from __future__ import annotations

# An explosion is over or the run is dead within this many steps; a closer look costs some ten kernels per parameter.
_CALM_RECORDS = 16
# A layer that is truly zero stays so; it is asked again from time to time.
_FORGET_ZEROS_AFTER = 1000


class Suspicion:
    """The sender's thread observes, the training thread reads `columns`; both are single assignments."""

    def __init__(self) -> None:
        self.columns: frozenset[int] = frozenset()
        self._zeros: set[int] = set()
        self._calm = 0
        self._records = 0

    def observe(self, unexplained: set[int], true_zeros: set[int], *, calm: bool) -> None:
        """One record: columns that nobody could explain, columns that are zero indeed, whether all was finite."""
        self._records += 1
        if self._records % _FORGET_ZEROS_AFTER == 0:
            self._zeros.clear()
        self._zeros |= true_zeros
        fresh = unexplained - self._zeros
        self._calm = self._calm + 1 if calm and not fresh else 0
        if self._calm >= _CALM_RECORDS:
            self.columns = frozenset()
        elif fresh or true_zeros & self.columns:
            self.columns = (self.columns | fresh) - self._zeros
