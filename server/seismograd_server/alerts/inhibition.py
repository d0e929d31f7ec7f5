"""Which alert speaks for another one: an explosion explains the spikes of its own run."""

from __future__ import annotations

from collections.abc import Iterable

from seismograd_server.model import Alert, AlertState, Severity, Signature

EXPLOSIONS = frozenset({Signature.NONFINITE, Signature.RUNAWAY})
EXPLAINED = frozenset({Signature.SPIKE})


def inhibitor(alert: Alert, open_alerts: Iterable[Alert]) -> str:
    """The signature of the explosion that explains `alert` right now; empty = it must speak for itself.

    `open_alerts` are those of the same run. Only a critical explosion that fires inhibits, and never another explosion.
    A spike that was inhibited stays so for as long as it lasts, because it was part of the explosion; it is heard when
    it grows worse after that.
    """
    if alert.signature not in EXPLAINED:
        return ""
    found = sorted(each.signature.value for each in open_alerts if each.run_id == alert.run_id and explodes(each))
    return found[0] if found else ""


def explodes(alert: Alert) -> bool:
    """Whether this is an explosion that is going on."""
    return alert.signature in EXPLOSIONS and alert.state is AlertState.FIRING and alert.severity is Severity.CRITICAL
