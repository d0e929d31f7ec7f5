"""What a post-mortem says, before anyone decided how it looks. Frozen, no I/O.

Numbers stay numbers here; the renderers format them. Sentences are plain text: renderers escape them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from seismograd_server.display.curves import CurveData
from seismograd_server.display.heat import Heatmap
from seismograd_server.model import Alert, AskedDirective, Checkpoint, Float64, Int64, Run, RunKey
from seismograd_server.reading.history import Recorded
from seismograd_server.report.clip.types import ClipStudy
from seismograd_server.report.nearest import Nearest


class Verdict(enum.StrEnum):
    """What became of the run, in one word."""

    EXPLODED = "exploded"  # a critical alert or a failure with growing or non-finite gradients
    DIVERGED = "diverged"  # the loss left for good while the gradients stayed bounded
    ALERTED = "alerted"  # something was seen, and the run survived it or still lives
    HEALTHY = "healthy"  # no detector fired and the data show nothing
    NO_DATA = "no_data"  # no step is closed yet


class FailureKind(enum.StrEnum):
    """How the failure shows in the data."""

    NONFINITE_LOSS = "nonfinite_loss"
    LOSS_TENFOLD = "loss_tenfold"
    NONFINITE_GRADIENT = "nonfinite_gradient"


@dataclass(frozen=True, slots=True)
class Focus:
    """Where a report looks closely.

    Attributes:
        onset: first step of the incident; None = nothing happened.
        detected: step at which the first alert of the incident opened; None = no alert did.
        failure: first step of the failure; None = the run did not fail in the data.
        last_healthy: the closed step before the onset; None = there is none.
        first_step, last_step: the window around the incident, for layers and ranks.
        lead: the alert that tells the incident; None = no alert does.
    """

    onset: int | None
    detected: int | None
    failure: int | None
    failure_kind: FailureKind | None
    last_healthy: int | None
    first_step: int
    last_step: int
    lead: Alert | None


@dataclass(frozen=True, slots=True)
class Healthy:
    """The gradient norm while all was well: finite, positive norms before the onset, start-up left out.

    Attributes:
        settled: whether there were enough of them to speak of a usual level; otherwise the earliest norms were taken.
    """

    count: int
    low: float  # 5th percentile
    median: float
    high: float  # 90th percentile
    top: float  # 99th percentile
    largest: float
    settled: bool


@dataclass(frozen=True, slots=True)
class Fact:
    """A key figure."""

    label: str
    value: str
    note: str = ""
    tone: str = ""  # "", "good", "warning" or "critical"


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the timeline."""

    step: int | None
    time: float | None  # Unix seconds
    title: str
    detail: str
    tone: str = ""  # as in Fact


@dataclass(frozen=True, slots=True)
class LayerRise:
    """A layer that left its own range, in the order in which they did."""

    order: int  # from 1
    name: str
    step: int  # first step at which it was out of its range and stayed there
    octaves: float  # how far it was above its median at `step`
    peak_octaves: float  # the farthest in the window
    nonfinite_step: int | None  # first step with non-finite elements of its own
    module_type: str


@dataclass(frozen=True, slots=True, eq=False)
class RankView:
    """The ranks around the onset."""

    steps: Int64  # [w]
    loss: Float64  # [w, r]; NaN = not known, Inf = not finite
    norm: Float64  # [w, r]; NaN = not sampled, Inf = overflow
    suspect: int | None  # the rank that left the others first
    suspect_step: int | None
    suspect_ratio: float | None  # of its number to the median of the others, at that step
    suspect_quantity: str  # "local gradient norm" or "loss"
    hostnames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """Something to try, with its numbers and its reason."""

    title: str
    reason: str
    numbers: tuple[tuple[str, str], ...] = ()  # label and value


class CauseKind(enum.StrEnum):
    """The catalogue of causes."""

    LEARNING_RATE = "learning_rate"  # too high, or raised
    MISSING_WARM_UP = "missing_warm_up"
    INITIALISATION = "initialisation"  # or depth
    RECURRENT_GAIN = "recurrent_gain"
    BAD_BATCH = "bad_batch"  # or shard, or machine, of a rank
    WEIGHT_CORRUPTION = "weight_corruption"
    PRECISION_OVERFLOW = "precision_overflow"
    WEIGHT_GROWTH = "weight_growth"  # as of a weight decay below zero
    CHANGED_SETTING = "changed_setting"  # what a healthy run was given otherwise
    LOOSE_CLIPPING = "loose_clipping"  # or none
    TARGET_OUTLIER = "target_outlier"
    BOOTSTRAPPED_TARGETS = "bootstrapped_targets"


@dataclass(frozen=True, slots=True)
class Cause:
    """A hypothesis of why it happened.

    Attributes:
        weight: how much speaks for it, from 0 to 1: an order, no probability.
        title: what is supposed, in a few words.
        evidence: label and value of what speaks for it.
    """

    kind: CauseKind
    weight: float
    title: str
    evidence: tuple[tuple[str, str], ...] = ()

    @property
    def word(self) -> str:
        """How likely, in a word."""
        return "likely" if self.weight >= 0.7 else "possible" if self.weight >= 0.4 else "not ruled out"


@dataclass(frozen=True, slots=True)
class NumberedAlert:
    """An alert under the number that the charts show."""

    number: int
    alert: Alert
    shown_step: int  # where its mark stands


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A post-mortem."""

    key: RunKey
    run: Run
    written_at: float
    verdict: Verdict
    headline: str
    summary: tuple[str, str, str]
    focus: Focus
    healthy: Healthy | None
    facts: tuple[Fact, ...]
    timeline: tuple[Event, ...]
    whole: CurveData | None
    around: CurveData | None
    heatmap: Heatmap | None
    rises: tuple[LayerRise, ...]
    ranks: RankView | None
    alerts: tuple[NumberedAlert, ...]
    checkpoint: Checkpoint | None  # the last one saved before the onset
    directives: tuple[AskedDirective, ...]  # what the job was asked for, oldest first
    recorded: tuple[Recorded, ...]  # what the flight recorders handed over, by rank
    configuration: tuple[tuple[str, str], ...]
    causes: tuple[Cause, ...]  # the likeliest first
    advice: tuple[Advice, ...]
    clip: ClipStudy
    gaps: tuple[str, ...]
    blind: tuple[str, ...]
    nearest: Nearest | None = None  # of a run that was not healthy
