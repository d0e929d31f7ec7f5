"""The case that the rules of advice look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seismograd_server.model import Alert, Checkpoint
from seismograd_server.reading.history import LayerWindow, Series
from seismograd_server.report.contents import Focus, Healthy, LayerRise, RankView, Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """All that the rules may look at."""

    series: Series
    focus: Focus
    verdict: Verdict
    healthy: Healthy | None
    alerts: Sequence[Alert]
    layers: LayerWindow | None
    rises: Sequence[LayerRise]
    ranks: RankView | None
    checkpoint: Checkpoint | None
    doubling: float | None
    depth: tuple[float, float, int] | None  # factor per layer, goodness of fit, layers

    @property
    def onset_row(self) -> int:
        """Row of the onset; the last row when nothing happened."""
        last = self.series.count - 1
        return last if self.focus.onset is None else min(last, max(0, self.series.row(self.focus.onset)))
