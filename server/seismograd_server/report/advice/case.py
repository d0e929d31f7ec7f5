"""The case that the rules of advice look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seismograd_server.model import Alert, Checkpoint, Signature
from seismograd_server.reading.history import LayerWindow, Series
from seismograd_server.report.clip.types import ClipStudy
from seismograd_server.report.contents import Focus, Healthy, LayerRise, RankView, Verdict

# Local norms of equal shards seldom differ by two; at four times, one rank is another case than the rest.
_RANK_APART = 4.0
_NOT_EXPLOSIVE = frozenset({Signature.VANISHING, Signature.DEAD_LAYER, Signature.STALLED})


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
    clip: ClipStudy

    @property
    def is_explosive(self) -> bool:
        """Whether gradients or losses were too large, rather than too small or too late."""
        lead = self.focus.lead
        return lead is None or lead.signature not in _NOT_EXPLOSIVE

    @property
    def blames_rank(self) -> bool:
        """Whether one rank stood apart so clearly that what all ranks share is not to blame."""
        if self.ranks is None or self.ranks.suspect is None:
            return False
        named = any(alert.signature is Signature.RANK_OUTLIER for alert in self.alerts)
        return named or (self.ranks.suspect_ratio or 0.0) >= _RANK_APART

    @property
    def onset_row(self) -> int:
        """Row of the onset; the last row when nothing happened."""
        last = self.series.count - 1
        return last if self.focus.onset is None else min(last, max(0, self.series.row(self.focus.onset)))
