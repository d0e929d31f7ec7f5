"""Which alerts people do not want to be told of for now. Pure.

A silence takes nothing away: its alerts open, are kept and shown, and are told when it ends while they still fire.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase

from seismograd_server.model import Alert, Run, RunKey, Signature, Silence

# The id of the silence of an imported run, which nobody has begun and nobody ends.
OF_IMPORT = "import"


def is_active(silence: Silence, now: float) -> bool:
    """Whether it silences anything now."""
    return silence.created_at <= now < silence.expires_at


def covers(silence: Silence, alert: Alert) -> bool:
    """Whether an alert is among those that a silence is about.

    An incident is about many runs: whoever silences one of these has not silenced it, unless he names `fleet`.
    """
    if silence.signature is not None and silence.signature is not alert.signature:
        return False
    if alert.signature is Signature.FLEET and silence.run and silence.signature is None:
        return False
    return silences_run(silence, alert.key)


def silences_run(silence: Silence, key: RunKey) -> bool:
    """Whether a silence is about a run, for some of its alerts at least."""
    return silence.project in {"", key.project} and (not silence.run or fnmatchcase(key.run, silence.run))


def lasting_silences(run: Run) -> list[Silence]:
    """What holds for a run for ever: of one that was imported, nobody is told."""
    if not run.imported:
        return []
    key, reason = run.key, "it was imported"
    return [Silence(OF_IMPORT, "seismograd import", reason, -math.inf, math.inf, key.project, literal(key.run))]


def literal(name: str) -> str:
    """The pattern that fits this name alone.

    >>> literal("sweep[1]*")
    'sweep[[]1][*]'
    """
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def silencer(alert: Alert, silences: Iterable[Silence], now: float) -> str:
    """The id of the silence that covers an alert the longest from now on; "" = none does."""
    found = [each for each in silences if is_active(each, now) and covers(each, alert)]
    return max(found, key=lambda each: (each.expires_at, each.silence_id)).silence_id if found else ""
