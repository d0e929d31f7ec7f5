"""What an alert asks of the job by itself, and of which of its ranks. Pure.

Only one thing is ever asked without a person: to hand over what the flight recorder holds around the alert, and to look
closer for a while. To stop or to save is somebody's decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from seismograd_server.model import Alert, AlertState, AskedDirective, Catalog, Severity, Transition

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """When the flight recorder is asked for, and how much of it.

    Attributes:
        automatic: whether alerts ask at all.
        least: the severity that is worth it; what is merely informative is not.
        steps_before: the recorder holds the last 256 steps. A fast job makes a hundred more while an alert is found
            and the question travels, so that what is asked for must be well below that to be there still.
        steps_after: long enough to see whether it recovers; every one of these steps is sampled, which costs the job
            several times its usual share of a per cent.
        steps_an_hour: what a run may be asked for, windows that overlap counted once: eight windows. A signature that
            comes and goes must not keep a job at full capture.
        ranks: that are asked at once. More would all send at the same moment; the rest are asked on demand.
    """

    automatic: bool = True
    least: Severity = Severity.WARNING
    steps_before: int = 64
    steps_after: int = 64
    steps_an_hour: int = 1024
    ranks: int = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """A window of steps, both ends included, and the alert that wants it."""

    alert: Alert
    first_step: int
    last_step: int


def capture_wanted(
    transitions: Iterable[Transition], asked: Sequence[AskedDirective], policy: CapturePolicy, now: float
) -> Wanted | None:
    """The window that these changes of one run's alerts ask for; None = nothing, or it is being captured already.

    An alert inside a window that was asked for extends it, once half of its own steps behind it would be missing: the
    client joins windows that overlap.

    Args:
        transitions: changes of this moment.
        asked: captures that the run has been asked for.
        policy: when, and how much.
        now: Unix seconds.
    """
    fired = [each.alert for each in transitions if _has_fired(each, policy)]
    if not policy.automatic or not fired:
        return None
    # The gravest, and of those the first: it is the one that leads.
    alert = min(fired, key=lambda each: (-each.severity, each.last_step))
    lowest, highest = min(each.last_step for each in fired), max(each.last_step for each in fired)
    wanted = Wanted(alert, lowest - policy.steps_before, highest + policy.steps_after)
    recent = [each.directive for each in asked if now - each.directive.asked_at < _HOUR]
    windows = _joined((each.first_step, each.last_step) for each in recent)
    leading = alert.evidence.leading_rank
    heard = {each.rank for one in asked for each in one.addressees}
    for first, last in windows:
        if first <= lowest and highest + policy.steps_after // 2 <= last and (leading is None or leading in heard):
            return None
    together = _joined([*windows, (wanted.first_step, wanted.last_step)])
    if sum(last - first + 1 for first, last in together) > policy.steps_an_hour:
        return None
    return wanted


def _has_fired(transition: Transition, policy: CapturePolicy) -> bool:
    alert = transition.alert
    if alert.state is not AlertState.FIRING or alert.severity < policy.least:
        return False
    return transition.before is not AlertState.FIRING or transition.severity_before < policy.least


def _joined(windows: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of windows as disjoint ones, rising."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(windows):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def ranks_to_ask(catalogs: Mapping[int, Sequence[Catalog]], leading: int | None, most: int) -> list[int]:
    """Whom to ask first: the rank that leads, and one replica of every piece of every parameter.

    Args:
        catalogs: of each rank that can be asked.
        leading: the rank that the alert names, if it names one.
        most: ranks at most.
    """
    chosen = [leading] if leading is not None and leading in catalogs else []
    covered: set[tuple[int, str, int]] = set()

    def replica(rank: int) -> tuple[int, int]:
        return max((each.replica_index for one in catalogs[rank] for each in one.parameters), default=0), rank

    for rank in sorted(catalogs, key=replica):
        pieces = {
            (one.optimizer, each.name, each.shard_id)
            for one in catalogs[rank]
            for each in one.parameters
            if each.local_numel
        }
        if len(chosen) < most and not pieces <= covered:
            covered |= pieces
            if rank not in chosen:
                chosen.append(rank)
    return chosen
