"""What all signatures of one run share: the baselines, learnt from the steps so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seismograd_server.detect.facts import Step


@dataclass(slots=True)
class Context:
    """Learnt from closed steps; `learn` is called once per step, after the detectors have looked at it."""

    seen: int = 0
    last_step: int | None = None

    def baseline(self) -> float:
        """Norm that is usual now; NaN = none yet."""
        return math.nan

    def learn(self, step: Step) -> None:
        """Take a step in."""
        self.seen += 1
        self.last_step = step.step
