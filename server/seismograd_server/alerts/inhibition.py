"""Which alert speaks for another one: an explosion explains what else is wrong with its own run.

Not explained are other explosions, and what an explosion cannot be the reason of: replicas that differ, and silence.
"""

from __future__ import annotations

from collections.abc import Iterable

from seismograd_server.model import Alert, AlertState, Severity, Signature

EXPLOSIONS = frozenset({Signature.NONFINITE, Signature.RUNAWAY})
EXPLAINED = frozenset(
    {
        Signature.SPIKE,
        Signature.LOSS_DIVERGENCE,
        Signature.DEPTH_GROWTH,
        Signature.RECURRENT_GAIN,
        Signature.UPDATE_OVERSHOOT,
        Signature.CLIP_SATURATION,
        Signature.RANK_OUTLIER,  # an explosion names the rank
        Signature.LOSS_SCALE_COLLAPSE,
        Signature.VANISHING,
        Signature.DEAD_LAYER,
    }
)


def inhibitor(alert: Alert, open_alerts: Iterable[Alert]) -> str:
    """The signature of the explosion that explains `alert` right now; empty = it must speak for itself.

    `open_alerts` are those of the same run. Only a critical explosion that fires inhibits, and never another explosion.
    What was inhibited stays so for as long as it lasts, because it was part of the explosion; it is heard when
    it grows worse after that.
    """
    if alert.signature not in EXPLAINED:
        return ""
    found = sorted(each.signature.value for each in open_alerts if each.run_id == alert.run_id and explodes(each))
    return found[0] if found else ""


def explodes(alert: Alert) -> bool:
    """Whether this is an explosion that is going on."""
    return alert.signature in EXPLOSIONS and alert.state is AlertState.FIRING and alert.severity is Severity.CRITICAL
