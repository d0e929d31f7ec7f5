"""What an alert asks of the job by itself, and of which of its ranks. Pure.

Only one thing is asked unless somebody has said otherwise: to hand over what the flight recorder holds around the
alert, and to look closer for a while. To stop or to save is somebody's decision: of a person who asks, or of whoever
wrote a policy into the rules. Either way it is a hint, and the job does what its own code lets happen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from seismograd_server.model import (
    BY_ALERT,
    Alert,
    AlertState,
    AskedDirective,
    Catalog,
    DirectiveKind,
    Severity,
    Signature,
    Transition,
    joined_ranges,
)

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
class Policy:
    """What alerts ask of the job because the rules say so.

    Attributes:
        signatures: of these.
        kinds: what is asked for, in this order. A capture is asked of every rank.
        least: once they are so grave.
        an_hour: how often each kind is asked of a run in an hour: a job that saves and goes on in spite of an alert
            that comes and goes must not do nothing else.
    """

    signatures: frozenset[Signature]
    kinds: tuple[DirectiveKind, ...]
    least: Severity = Severity.CRITICAL
    an_hour: int = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an alert wants; of a capture, the window of steps, both ends included."""

    alert: Alert
    first_step: int = 0
    last_step: int = 0
    kind: DirectiveKind = DirectiveKind.CAPTURE_MORE
    by_policy: bool = False  # then every rank is asked


def wanted(
    transitions: Sequence[Transition],
    asked: Sequence[AskedDirective],
    capture: CapturePolicy,
    policies: Iterable[Policy],
    now: float,
    *,
    ranks: Collection[int],
) -> list[Wanted]:
    """All that these changes of one run's alerts ask for. What nobody is told of asks for nothing.

    Of a run that an incident speaks for people are told by the incident: its job is asked what the policies say.

    Args:
        transitions: changes of this moment.
        asked: what the run has been asked for within the hour.
        capture: when the flight recorder is asked for in any case, and how much of it.
        policies: what else is asked for.
        now: Unix seconds.
        ranks: those that can be asked.
    """
    heard = [each for each in transitions if each.notify]
    known = [each for each in transitions if is_heard(each)]
    captures = [each for each in asked if each.directive.kind is DirectiveKind.CAPTURE_MORE]
    found: dict[DirectiveKind, Wanted] = {}
    for policy in policies:
        struck = [each for each in known if each.alert.signature in policy.signatures]
        fired = [each.alert for each in struck if _has_fired(each, policy.least)]
        if not fired:
            continue
        for kind in policy.kinds:
            if kind is DirectiveKind.CAPTURE_MORE:
                limits = replace(capture, automatic=True, least=policy.least)
                window = capture_wanted(struck, captures, limits, now, ranks=ranks)
                if window is not None:
                    found.setdefault(kind, replace(window, by_policy=True))
            elif _times(asked, kind, now) < policy.an_hour:
                found.setdefault(kind, Wanted(_leader(fired), kind=kind, by_policy=True))
    usual = capture_wanted(heard, captures, capture, now)
    if usual is not None:
        found.setdefault(DirectiveKind.CAPTURE_MORE, usual)
    return list(found.values())


def is_heard(transition: Transition) -> bool:
    """Whether people are told, by the alert or by the incident that speaks for it."""
    return transition.notify or transition.alert.inhibited_by == Signature.FLEET


def _times(asked: Iterable[AskedDirective], kind: DirectiveKind, now: float) -> int:
    """How often alerts have asked for this within the hour; what people ask is theirs to limit."""
    return sum(
        each.directive.kind is kind and each.directive.asked_by == BY_ALERT and now - each.directive.asked_at < _HOUR
        for each in asked
    )


def _leader(fired: Sequence[Alert]) -> Alert:
    """The gravest, and of those the first: it is the one that leads."""
    return min(fired, key=lambda each: (-each.severity, each.last_step))


def capture_wanted(
    transitions: Iterable[Transition],
    asked: Sequence[AskedDirective],
    policy: CapturePolicy,
    now: float,
    *,
    ranks: Collection[int] = (),
) -> Wanted | None:
    """The window that these changes of one run's alerts ask for; None = nothing, or it is being captured already.

    An alert inside a window that was asked for extends it, once half of its own steps behind it would be missing: the
    client joins windows that overlap.

    Args:
        transitions: changes of this moment.
        asked: captures that the run has been asked for.
        policy: when, and how much.
        now: Unix seconds.
        ranks: all of these must be asked; empty = the one that leads will do.
    """
    fired = [each.alert for each in transitions if _has_fired(each, policy.least)]
    if not policy.automatic or not fired:
        return None
    alert = _leader(fired)
    lowest, highest = min(each.last_step for each in fired), max(each.last_step for each in fired)
    window = Wanted(alert, lowest - policy.steps_before, highest + policy.steps_after)
    recent = [each for each in asked if now - each.directive.asked_at < _HOUR]
    leading = alert.evidence.leading_rank
    needed = set(ranks) or ({leading} if leading is not None else set())
    # Who all must be asked must have been asked for the window itself; one leader for any of those that join.
    heard = {each.rank for one in recent for each in one.addressees}
    reached = [one for one in recent if not ranks or needed <= {each.rank for each in one.addressees}]
    for first, last in _windows(reached):
        if first <= lowest and highest + policy.steps_after // 2 <= last and needed <= heard:
            return None
    together = joined_ranges([*_windows(recent), (window.first_step, window.last_step)])
    if sum(last - first + 1 for first, last in together) > policy.steps_an_hour:
        return None
    return window


def _has_fired(transition: Transition, least: Severity) -> bool:
    """Whether an alert has just become so grave, or people have just been let know that it is."""
    alert = transition.alert
    if alert.state is not AlertState.FIRING or alert.severity < least:
        return False
    was_known = transition.told_before if transition.notify else transition.severity_before
    return transition.before is not AlertState.FIRING or was_known < least


def _windows(asked: Iterable[AskedDirective]) -> list[tuple[int, int]]:
    return joined_ranges((each.directive.first_step, each.directive.last_step) for each in asked)


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
