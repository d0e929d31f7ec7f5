"""The case that the rules of advice look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seismograd_server.model import Alert, Checkpoint, Signature
from seismograd_server.reading.history import LayerWindow, Series, WeightSamples
from seismograd_server.report.clip.types import ClipStudy
from seismograd_server.report.contents import Focus, Healthy, LayerRise, RankView, Verdict
from seismograd_server.report.nearest import Nearest

# Local norms of equal shards seldom differ by two; at four times, one rank is another case than the rest.
_RANK_APART = 4.0
# What optimizers, trainers and people call it.
_DECAY_NAMES = frozenset({"weight_decay", "weightdecay", "wd", "l2", "l2_penalty"})
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
    given: Mapping[str, str] = field(default_factory=dict)  # the configuration, by flat keys
    nearest: Nearest | None = None
    weights: WeightSamples | None = None

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
    def negative_decay(self) -> tuple[str, float] | None:
        """The weight decay below zero that was given, under its name."""
        for key, text in self.given.items():
            name = key.rsplit(".", maxsplit=1)[-1].lower()
            if name not in _DECAY_NAMES:
                continue
            try:
                value = float(text)
            except ValueError:
                continue
            if value < 0:
                return key, value
        return None

    @property
    def onset_row(self) -> int:
        """Row of the onset; the last row when nothing happened."""
        last = self.series.count - 1
        return last if self.focus.onset is None else min(last, max(0, self.series.row(self.focus.onset)))
