"""Notices that a clock has been set: it has moved otherwise than one that nobody can set."""

from __future__ import annotations

# What is slewed moves far less between two looks; what is set moves by more, or harms nothing.
_JUMP_SECONDS = 1.0


class Jumps:
    """Of one clock, beside a steady one."""

    def __init__(self) -> None:
        self._looked: tuple[float, float] | None = None

    def since_last(self, now: float, steady: float) -> float:
        """By how many seconds the clock has been set since the last look (back, when negative); 0 = it has not."""
        looked, self._looked = self._looked, (now, steady)
        if looked is None:
            return 0.0
        jump = (now - looked[0]) - (steady - looked[1])
        return jump if abs(jump) >= _JUMP_SECONDS else 0.0
