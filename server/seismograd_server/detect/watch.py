"""All detectors of one run: closed blocks in, findings out. Start reading here.

    ClosedBlock --facts--> Step --(each signature, in the light of the Context)--> Finding
                             `--> Context learns, after the detectors have looked

Where it is certain that nobody has anything to tell, many steps are taken in at once (`stretch.py`), and those of many
runs together (`together.py`). The effect is the same, to the last bit of the state.

A pure state machine: the same steps give the same findings, however the stream was cut into blocks and wherever it was
saved and restored in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seismograd_server.detect.clip_saturation import ClipSaturationConfig, ClipSaturationDetector
from seismograd_server.detect.context import Context
from seismograd_server.detect.dead_layer import DeadLayerConfig, DeadLayerDetector
from seismograd_server.detect.depth_growth import DepthGrowthConfig, DepthGrowthDetector
from seismograd_server.detect.facts import Facts, Step, from_octaves
from seismograd_server.detect.grounds import RunawayConfig
from seismograd_server.detect.loss_divergence import LossDivergenceConfig, LossDivergenceDetector
from seismograd_server.detect.loss_scale_collapse import LossScaleCollapseConfig, LossScaleCollapseDetector
from seismograd_server.detect.nonfinite import NonfiniteConfig, NonfiniteDetector
from seismograd_server.detect.rank_outlier import RankOutlierConfig, RankOutlierDetector
from seismograd_server.detect.reading import Reading
from seismograd_server.detect.recurrent_gain import RecurrentGainConfig, RecurrentGainDetector
from seismograd_server.detect.replica_desync import ReplicaDesyncConfig, ReplicaDesyncDetector
from seismograd_server.detect.runaway import RunawayDetector
from seismograd_server.detect.signature import Detector
from seismograd_server.detect.spike import SpikeConfig, SpikeDetector
from seismograd_server.detect.stalled import StalledConfig, StalledDetector
from seismograd_server.detect.state import StateError, fill, pack, unpack
from seismograd_server.detect.stretch import Stretch, foresee, shortened, take_in
from seismograd_server.detect.update_overshoot import UpdateOvershootConfig, UpdateOvershootDetector
from seismograd_server.detect.vanishing import VanishingConfig, VanishingDetector
from seismograd_server.model import ClosedBlock, DetectorStatus, Finding, Float64, Signature, Visibility

# Raised when a saved state changes its meaning; an older one is then refused, and the pipeline replays from the start.
STATE_VERSION = 2

# Calm steps are foreseen so far: from there on longer is no faster. After a step that had to be looked at, only so far.
REACH_STEPS = 512
_LEAST_REACH_STEPS = 16

# Every signature that a run is watched for, in the order in which they look at a step. A new signature is a new file
# with a detector class, a line here, and its thresholds in `WatchConfig`.
DETECTORS: tuple[type[Detector], ...] = (
    NonfiniteDetector,
    RunawayDetector,
    SpikeDetector,
    LossDivergenceDetector,
    DepthGrowthDetector,
    RecurrentGainDetector,
    UpdateOvershootDetector,
    ClipSaturationDetector,
    RankOutlierDetector,
    ReplicaDesyncDetector,
    LossScaleCollapseDetector,
    VanishingDetector,
    DeadLayerDetector,
    StalledDetector,
)


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What to watch for.

    Attributes:
        muted: signatures that are not looked for.

    The others are the thresholds of each signature, under its name.
    """

    muted: frozenset[Signature] = frozenset()
    nonfinite: NonfiniteConfig = field(default_factory=NonfiniteConfig)
    runaway: RunawayConfig = field(default_factory=RunawayConfig)
    spike: SpikeConfig = field(default_factory=SpikeConfig)
    loss_divergence: LossDivergenceConfig = field(default_factory=LossDivergenceConfig)
    depth_growth: DepthGrowthConfig = field(default_factory=DepthGrowthConfig)
    recurrent_gain: RecurrentGainConfig = field(default_factory=RecurrentGainConfig)
    update_overshoot: UpdateOvershootConfig = field(default_factory=UpdateOvershootConfig)
    clip_saturation: ClipSaturationConfig = field(default_factory=ClipSaturationConfig)
    rank_outlier: RankOutlierConfig = field(default_factory=RankOutlierConfig)
    replica_desync: ReplicaDesyncConfig = field(default_factory=ReplicaDesyncConfig)
    loss_scale_collapse: LossScaleCollapseConfig = field(default_factory=LossScaleCollapseConfig)
    vanishing: VanishingConfig = field(default_factory=VanishingConfig)
    dead_layer: DeadLayerConfig = field(default_factory=DeadLayerConfig)
    stalled: StalledConfig = field(default_factory=StalledConfig)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a block told: changes of level, the norm baseline before each step, and detectors that have just failed."""

    findings: tuple[Finding, ...]
    usual: Sequence[float]  # [n], octaves; NaN = none yet
    failures: tuple[tuple[Signature, str], ...] = ()

    @property
    def baseline(self) -> Float64:
        """float64[n]: the norm that was usual before each step; NaN = none yet."""
        return np.array([from_octaves(each) for each in self.usual])

    @property
    def latest_baseline(self) -> Float64:
        """float64[1]: of that the last one known."""
        return np.array([from_octaves(next((each for each in reversed(self.usual) if not math.isnan(each)), math.nan))])


class RunWatch:
    """The detectors of one optimizer of one run."""

    def __init__(self, config: WatchConfig = WatchConfig()) -> None:
        self.config = config
        self._context = Context()
        self._detectors: tuple[Detector, ...] = tuple(
            make(getattr(config, make.signature.value)) for make in DETECTORS if make.signature not in config.muted
        )
        self._quarantined: dict[Signature, str] = {}

    def usual_layers(self, layers: int) -> Float64:
        """float64[l]: each layer's median norm over the quiet steps of late; NaN = not known."""
        levels = self._context.layers.usual(layers)
        return np.full(layers, np.nan) if levels is None else np.exp2(levels)

    def observe(self, block: ClosedBlock) -> Observation:
        """Look at the next closed steps of the run. Never raises because of a detector: see `Observation.failures`."""
        return self.look(Facts(block))

    def look(self, facts: Facts, foreseen: Stretch | None = None) -> Observation:
        """The same, with the facts of the block, and what has been foreseen of the whole of it (`foresee_all`)."""
        findings: list[Finding] = []
        failures: list[tuple[Signature, str]] = []
        usual: list[float] = []
        row, reach = 0, REACH_STEPS
        while row < facts.count:
            passed = self._pass_by(facts, row, reach, usual, None if row else foreseen)
            if not passed:
                usual.append(self._context.usual_level())
                self._look_at(facts.step(row), findings, failures)
                self._context.reading = Reading()  # of one step, so that it is no part of the state between blocks
            row += passed or 1
            reach = min(REACH_STEPS, 2 * passed + _LEAST_REACH_STEPS)  # what is not passed was foreseen in vain
        return Observation(tuple(findings), usual, tuple(failures))

    @property
    def may_pass(self) -> bool:
        """Whether steps may be taken in unseen: not when some detector has failed."""
        return not self._quarantined

    def passers(self) -> tuple[Context, tuple[Detector, ...]]:
        """What steps that pass unseen are taken in by; for `look_together`."""
        return self._context, self._detectors

    def _pass_by(self, facts: Facts, row: int, reach: int, usual: list[float], stretch: Stretch | None = None) -> int:
        """Take in the steps from this row on of which it is certain that nothing is to be told, all at once.

        Returns:
            how many, at most `reach`; 0 = the next one must be looked at.
        """
        if stretch is None and not self._quarantined:
            stretch = foresee(self._context, facts, row, reach)
        if stretch is None:
            return 0
        steps, context = stretch.count, self._context
        for each in self._detectors:
            if (idle := each.idle(stretch, context)) < steps:
                steps = idle
                if not steps:
                    return 0
        stretch = shortened(stretch, context, steps)
        take_in(context, stretch)
        for each in self._detectors:
            each.skip(stretch)
        usual += stretch.norm.centers
        return steps

    def _look_at(self, step: Step, findings: list[Finding], failures: list[tuple[Signature, str]]) -> None:
        try:
            self._context.read(step)
        except Exception as error:  # noqa: BLE001 (a broken detector must not stop ingest)
            failures.extend(self._quarantine(each, step, error) for each in self._awake())
            return
        for detector in self._awake():
            try:
                finding = detector.observe(step, self._context)
            except Exception as error:  # noqa: BLE001 (nor may it stop the others)
                failures.append(self._quarantine(detector, step, error))
                continue
            if finding is not None:
                findings.append(finding)
        self._context.learn(step)

    def _awake(self) -> tuple[Detector, ...]:
        if not self._quarantined:
            return self._detectors
        return tuple(each for each in self._detectors if each.signature not in self._quarantined)

    def silence(self, seconds: float) -> Finding | None:
        """Say whether it is news that nothing has come for so many seconds. Changes nothing; the next step ends it."""
        stalled = (each for each in self._awake() if isinstance(each, StalledDetector))
        return next((found for each in stalled if (found := each.silence(seconds)) is not None), None)

    def statuses(self) -> tuple[DetectorStatus, ...]:
        """Say of each signature whether it can see, and why not more."""
        if not self._quarantined:
            return tuple([each.status(self._context) for each in self._detectors])
        return tuple(
            DetectorStatus(each.signature, Visibility.BLIND, f"quarantined: {self._quarantined[each.signature]}")
            if each.signature in self._quarantined
            else each.status(self._context)
            for each in self._detectors
        )

    def to_bytes(self) -> bytes:
        """Write the whole state; `from_bytes` continues from it as if nothing had happened."""
        self._context.layers.settle()
        return pack(
            {
                "version": STATE_VERSION,
                "context": self._context,
                "detectors": {each.signature.value: each for each in self._detectors},
                "quarantined": {key.value: why for key, why in self._quarantined.items()},
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, config: WatchConfig = WatchConfig()) -> RunWatch:
        """Continue from a saved state. A signature that the state does not know starts afresh.

        Raises:
            StateError: damaged, or of another version.
        """
        saved: dict[str, Any] = unpack(data)
        if saved.get("version") != STATE_VERSION:
            raise StateError(f"detector state: version {saved.get('version')}, this program reads {STATE_VERSION}")
        watch = cls(config)
        fill(watch._context, saved["context"])
        for each in watch._detectors:
            fill(each, saved["detectors"].get(each.signature.value, {}))
        watch._quarantined = {Signature(key): why for key, why in saved["quarantined"].items()}
        return watch

    def _quarantine(self, detector: Detector, step: Step, error: Exception) -> tuple[Signature, str]:
        why = f"{type(error).__name__} at step {step.step}: {error}"
        self._quarantined[detector.signature] = why
        return detector.signature, why
