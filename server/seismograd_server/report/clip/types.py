"""What a study of clipping says, before anyone decided how it looks. Frozen, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

# Which formulas the numbers follow, in the words of every answer. A norm n, a threshold c, a learning rate r.
COEFFICIENT_FORMULA = "coefficient = min(1, c / (n + 1e-6)), as torch's clip_grad_norm_"
MEAN_FORMULA = "mean_coefficient = sum(coefficient) / steps"
WEIGHTED_FORMULA = "weighted_coefficient = sum(r * n * coefficient) / sum(r * n)"


@dataclass(frozen=True, slots=True)
class Effect:
    """What clipping makes of some steps.

    The effective learning rate of a step under plain gradient descent is the rate times the coefficient, so that
    `1 - mean` of it is lost on the average step. `weighted` counts each step by how far it would have gone, rate times
    norm: `1 - weighted` is what is lost of the length of the whole path, and most of that on the largest steps.
    """

    clipped: float  # share of the steps
    mean: float  # coefficient
    weighted: float  # coefficient


@dataclass(frozen=True, slots=True)
class Quantile:
    """Below which norm a share of the steps lies, and how many octaves that is above the median."""

    share: float
    norm: float
    octaves: float


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What a threshold would have done to the same norms.

    Attributes:
        exploding: share of the steps from the onset on that it would have clipped; None = there are none.
    """

    threshold: float
    effect: Effect
    exploding: float | None


@dataclass(frozen=True, slots=True)
class Tenth:
    """A tenth of the steps from the first to the last that was judged; numbers are None where it has no such step."""

    first_step: int
    last_step: int
    steps: int  # judged ones
    median: float | None
    high: float | None  # 90th percentile
    octaves: float | None  # of its median above that of all
    effect: Effect | None  # of the clipping that was in force; None = nobody clipped


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A threshold and why; None = there is nothing to measure one from, or no reason to change what is in force."""

    threshold: float | None
    keep: bool  # the threshold in force is fine
    reason: str
    settled: bool = True  # False = it rests on hardly any steps


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Steps that the distribution leaves out, by why."""

    exploding: int  # from the onset on
    unknown: int  # no finite, positive norm, or NaN or Inf among the gradients, or skipped by the loss scaler
    after_clip: int  # their norm was taken after the gradients had been changed
    start_up: int  # the first steps, whose norms fall fast


@dataclass(frozen=True, slots=True)
class ClipStudy:
    """All that the stored norms say on clipping.

    Attributes:
        steps: judged ones: those that the distribution is of.
        looked_at, closed: steps that were read, and those there are; fewer were read where a sample was asked for.
        in_force: the last threshold known before the onset; None = nobody clipped.
        now: what the clipping in force did to the judged steps; None = nobody clipped.
        drift_octaves: how far the median of the last tenth lies above that of the first; None = fewer than two have.
        histogram: judged steps in each quarter of an octave from `histogram_start` octaves on (log2 of the norm).
        limits: what this cannot know, as sentences.
    """

    steps: int
    looked_at: int
    closed: int
    first_step: int | None
    last_step: int | None
    onset: int | None
    left_out: LeftOut
    quantiles: tuple[Quantile, ...]
    histogram_start: float
    histogram: tuple[int, ...]
    in_force: float | None
    now: Effect | None
    recommendation: Recommendation
    counterfactuals: tuple[Counterfactual, ...]
    tenths: tuple[Tenth, ...]
    drift_octaves: float | None
    limits: tuple[str, ...]

    def at(self, threshold: float) -> Counterfactual | None:
        """What this threshold would have done, when it was looked at."""
        return next((each for each in self.counterfactuals if each.threshold == threshold), None)
