"""`rank_outlier`: one rank's own norm lies far above the others': its data, or its hardware.

Judged by local norms from before the all-reduce, which the client samples. A rank drives the global norm when its share
of the average explains most of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import ClassVar

from seismograd_server.detect.context import Context
from seismograd_server.detect.evidence import finite, norm_evidence, times
from seismograd_server.detect.facts import Step, from_octaves
from seismograd_server.detect.ranks import Spread, on_host
from seismograd_server.detect.state import SETTING
from seismograd_server.detect.stretch import Stretch
from seismograd_server.model import DetectorStatus, Evidence, Finding, Severity, Signature, Visibility


@dataclass(frozen=True, slots=True)
class RankOutlierConfig:
    """Thresholds of `rank_outlier`."""

    # Eight times the median of the others, and three times as far as ranks usually lie apart in this run.
    above_octaves: float = 3.0
    times_usual: float = 3.0
    # No other rank comes half as far: two that do are an imbalance of the data.
    next_most: float = 0.5
    # Twice in a row, because a batch of one rank may be bad; once is enough while the global norm is far from usual.
    samples: int = 2
    # What a rank must explain of the global norm to drive it: within half an octave all of it.
    drives_octaves: float = 0.5
    # A sample speaks for so many steps: local norms are sampled every tenth step.
    sample_steps: int = 12
    recovered_samples: int = 4


@dataclass(slots=True)
class RankOutlierDetector:
    """Warns of a rank that stands out; critical when it drives the global norm out of its usual range for good."""

    signature: ClassVar[Signature] = Signature.RANK_OUTLIER

    config: RankOutlierConfig = field(default=RankOutlierConfig(), metadata=SETTING)
    severity: int = Severity.NONE
    since_step: int = 0
    rank: int = -1  # whom the latest samples are about
    samples: int = 0  # of it that stood out, in a row
    others: int = 0  # samples in a row since that did not
    level: float = math.nan  # of its own norm at the latest sample that stood out
    above: float = math.nan  # and how far above the others
    drives_for: int = 0  # steps for which it counts as driving the global norm

    def observe(self, step: Step, context: Context) -> Finding | None:
        """Look at the next step."""
        self.drives_for = max(0, self.drives_for - 1)
        ended = None if step.rank_norms is None else self._compare(step, step.rank_norms, context)
        if ended is not None:
            return ended
        reading = context.reading
        driven = reading.judged and reading.far and context.excursion.open and self.drives_for > 0
        if not (self.samples >= self.config.samples or (self.samples and driven)):
            return None
        critical = driven and reading.runs_away
        severity = Severity.CRITICAL if critical else Severity.WARNING
        if severity <= self.severity:
            return None
        self.severity = severity
        return Finding(
            self.signature,
            severity,
            "",
            step.step,
            self.since_step,
            replace(
                norm_evidence(step, context),
                value=finite(from_octaves(self.level)),
                baseline=finite(from_octaves(self.level - self.above)),
                threshold=finite(from_octaves(self.level - self.above + self.config.above_octaves)),
                leading_rank=self.rank,
            ),
            f"rank {self.rank}{on_host(step.block.layout, self.rank)}: its norm {from_octaves(self.level):.3g} is "
            f"{times(self.above)} that of the others{', and drives the global norm' if critical else ''}",
        )

    def _compare(self, step: Step, spread: Spread, context: Context) -> Finding | None:
        """Take in a sample; the end of it when that has come."""
        config = self.config
        least = config.above_octaves
        if self.severity == Severity.NONE:
            least = max(least, config.times_usual * context.ranks.norm.mean)
        if not spread.highest >= least or spread.second > config.next_most * spread.highest:
            self.others += 1
            if self.severity == Severity.NONE:
                self.samples = 0
            elif self.others >= config.recovered_samples:
                self.severity, self.samples, self.drives_for = Severity.NONE, 0, 0
                reason = f"rank {self.rank} is like the others again"
                return Finding(self.signature, Severity.NONE, "", step.step, self.since_step, Evidence(), reason)
            return None
        if spread.leader != self.rank or self.samples == 0:
            self.rank, self.samples = spread.leader, 0
            if self.severity == Severity.NONE:
                self.since_step = step.step
        self.samples, self.others = self.samples + 1, 0
        self.above, self.level = spread.highest, spread.others + spread.highest
        share = self.level - math.log2(max(1, int(step.block.ranks_present[step.row].sum())))
        if share >= step.level - config.drives_octaves:
            self.drives_for = config.sample_steps
        return None

    def idle(self, stretch: Stretch, context: Context) -> int:  # noqa: ARG002 (the protocol's form)
        """Until the first sample in which a rank stands out."""
        if self.severity != Severity.NONE or self.samples or self.drives_for:
            return 0
        rows = stretch.facts.of_ranks
        for row in rows[bisect_left(rows, stretch.start) : bisect_left(rows, stretch.start + stretch.count)]:
            spread, _ = stretch.facts.spreads(row)
            if spread is not None and spread.highest >= self.config.above_octaves:
                return row - stretch.start
        return stretch.count

    def skip(self, stretch: Stretch) -> None:
        """Samples in which nobody stands out are counted."""
        rows = stretch.facts.of_ranks
        known = rows[bisect_left(rows, stretch.start) : bisect_left(rows, stretch.start + stretch.count)]
        self.others += sum(stretch.facts.spreads(row)[0] is not None for row in known)

    def status(self, context: Context) -> DetectorStatus:
        """Armed when local norms of several ranks have been seen."""
        if context.ranks.norm.samples:
            return DetectorStatus(self.signature, Visibility.ARMED, "")
        because = "no norms of several ranks from before the all-reduce are known"
        return DetectorStatus(self.signature, Visibility.BLIND, because)
