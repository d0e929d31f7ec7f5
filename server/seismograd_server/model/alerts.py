"""Findings of detectors, and the alerts that come of them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seismograd_server.model.runs import RunKey


class Severity(enum.IntEnum):
    """How bad it is; the numbers are those of `seismograd_run_signature_active`."""

    NONE = 0
    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def label(self) -> str:
        """Lower-case name, as in labels and JSON."""
        return self.name.lower()


class Signature(enum.StrEnum):
    """The catalogue of what detectors can see; values are the promised label values."""

    NONFINITE = "nonfinite"
    RUNAWAY = "runaway"
    SPIKE = "spike"
    DEPTH_GROWTH = "depth_growth"
    RECURRENT_GAIN = "recurrent_gain"
    UPDATE_OVERSHOOT = "update_overshoot"
    CLIP_SATURATION = "clip_saturation"
    RANK_OUTLIER = "rank_outlier"
    REPLICA_DESYNC = "replica_desync"
    LOSS_SCALE_COLLAPSE = "loss_scale_collapse"
    LOSS_DIVERGENCE = "loss_divergence"
    VANISHING = "vanishing"
    DEAD_LAYER = "dead_layer"
    STALLED = "stalled"
    FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a detector saw; None = not known or without meaning for this signature."""

    value: float | None = None  # the number that was judged (a norm unless `reason` says otherwise)
    baseline: float | None = None
    threshold: float | None = None
    doubling_time_steps: float | None = None
    steps_to_overflow: float | None = None
    leading_layer: str | None = None
    leading_rank: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON values only


@dataclass(frozen=True, slots=True)
class Finding:
    """A detector's level changed at `step`, the last step whose data was used.

    `severity` NONE says that the condition is over. While it lasts, a finding is given again only when the severity
    rises or the evidence becomes notably worse; the lifecycle does the rest.
    """

    signature: Signature
    severity: Severity
    scope: str  # "" = the whole run; otherwise what it is about ("layer:rnn.weight_hh_l0", "rank:3")
    step: int
    since_step: int
    evidence: Evidence
    reason: str  # one line a person can read


class Visibility(enum.StrEnum):
    """Whether a detector can see."""

    ARMED = "armed"
    WARMING_UP = "warming_up"
    BLIND = "blind"


@dataclass(frozen=True, slots=True)
class DetectorStatus:
    """What a detector can see of a run right now, and why not more."""

    signature: Signature
    visibility: Visibility
    because: str  # empty when armed


class AlertState(enum.StrEnum):
    """Where an alert is in its life; acknowledgement, silence and inhibition are attributes, not states."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Resolution(enum.StrEnum):
    """Why an alert was resolved."""

    RECOVERED = "recovered"
    ENDED = "ended"
    EXPIRED = "expired"
    MUTED = "muted"  # the rules say that its signature is not looked for any more


class Verdict(enum.StrEnum):
    """What a person who looked at an alert says of it."""

    RIGHT = "right"
    WRONG = "wrong"  # nothing was the matter, or something else


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as it is stored; unique by (run, signature, scope, opened_step)."""

    alert_id: str
    run_id: int
    key: RunKey
    signature: Signature
    scope: str
    severity: Severity
    state: AlertState
    since_step: int
    opened_step: int
    last_step: int
    opened_at: float  # Unix seconds
    updated_at: float
    resolved_at: float | None
    resolution: Resolution | None
    evidence: Evidence
    reason: str
    fingerprint: str  # sha256 of (project, run, signature, scope)
    acknowledged_by: str = ""
    acknowledged_at: float | None = None
    inhibited_by: str = ""  # signature of the explosion that explains this alert, so that nobody was told; "" = none
    told: Severity = (
        Severity.NONE
    )  # the severity that people have heard of since it last opened; NONE = none of them has
    silenced_by: str = ""  # the silence for whose sake people have not heard of its severity; "" = none
    verdict: Verdict | None = None  # None = nobody has judged it


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of an alert, with its named cause; the history of an alert is the list of these."""

    alert: Alert  # as it is afterwards
    before: AlertState | None  # None = opened now
    cause: str
    at: float
    notify: bool  # whether people must hear of it
    severity_before: Severity = Severity.NONE
    told_before: Severity = Severity.NONE  # a target whose labels hold the severity must close the one it was told
    author: str = ""  # the person who did it; "" = nobody, it came of itself
    note: str = ""  # what that person wrote about it


@dataclass(frozen=True, slots=True)
class Silence:
    """What a person does not want to be told of for a while; alerts open and are kept all the same.

    Attributes:
        silence_id: 24 hexadecimal digits.
        author: who wants it.
        reason: why; may be empty.
        created_at, expires_at: Unix seconds.
        project: of this project only; "" = of every one.
        run: of runs whose name matches this pattern, with `*`, `?` and `[abc]`; "" = of every one.
        signature: of this signature only; None = of every one.
        ended_by: who ended it before its time; then `expires_at` is when. "" = nobody.
    """

    silence_id: str
    author: str
    reason: str
    created_at: float
    expires_at: float
    project: str = ""
    run: str = ""
    signature: Signature | None = None
    ended_by: str = ""


@dataclass(frozen=True, slots=True)
class Precision:
    """How often the alerts of a signature were called right, among those that somebody judged."""

    project: str
    signature: Signature
    right: int
    wrong: int

    @property
    def share(self) -> float:
        """Right ones among the judged ones, from 0 to 1; there is at least one."""
        return self.right / (self.right + self.wrong)
