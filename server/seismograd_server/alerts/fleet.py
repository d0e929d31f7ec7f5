"""One incident instead of fifty alerts: runs that fire the same signature together, and what they share. Pure.

Chance is told from cause by Fisher's exact test. Of N runs K carry a tag; n of the N fire; the probability that at
least k of these carry it, if tag and firing had nothing to do with each other, is the hypergeometric tail

    P(X >= k) = sum over i >= k of  C(K, i) C(N - K, n - i) / C(N, n)

Many tags are tried, so that it is multiplied by how many were (Bonferroni): what is left is beyond chance even so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb

from seismograd_server.model import Alert, AlertState, Evidence, Finding, RunKey, Severity, Signature

# Runs and tags named in the evidence: what a person reads; the count is of all.
_RUNS_NAMED = 20
_TAGS_NAMED = 5


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """When runs make an incident.

    Attributes:
        window_seconds: runs that fire within this time do so together. A bad node, shard or release hits runs within
            minutes, at whatever step each of them is.
        least_runs: so many. Two runs of a sweep explode together too often.
        significance: a tag is shared beyond chance below this probability, after correction.
    """

    window_seconds: float = 600.0
    least_runs: int = 3
    significance: float = 0.05


@dataclass(frozen=True, slots=True)
class Member:
    """A run, and everything that it may share with others: (name, value); one name may have several values."""

    run_id: int
    key: RunKey
    tags: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class SharedTag:
    """A tag that the firing runs share beyond chance.

    Attributes:
        firing, others: how many of these carry it.
        probability: of so many or more by chance, corrected for the number of tags that were tried.
    """

    name: str
    value: str
    firing: int
    others: int
    probability: float


def tail(hits: int, draws: int, marked: int, total: int) -> float:
    """P(X >= hits) of the hypergeometric distribution: `draws` of `total`, of which `marked` are marked. Exact."""
    ways = sum(comb(marked, each) * comb(total - marked, draws - each) for each in range(hits, min(draws, marked) + 1))
    return ways / comb(total, draws)


def shared_tags(firing: Sequence[Member], others: Sequence[Member], significance: float) -> tuple[SharedTag, ...]:
    """The tags that the firing runs share beyond chance, the least probable first.

    Tried are the tags that at least two firing runs carry: one run shares nothing.
    """
    inside, outside = _counts(firing), _counts(others)
    tried = {tag: count for tag, count in inside.items() if count >= 2}
    total = len(firing) + len(others)
    found = [
        SharedTag(
            *tag, count, outside[tag], min(1.0, len(tried) * tail(count, len(firing), count + outside[tag], total))
        )
        for tag, count in tried.items()
    ]
    beyond = [each for each in found if each.probability <= significance]
    return tuple(sorted(beyond, key=lambda each: (each.probability, -each.firing, each.name, each.value)))


def _counts(members: Iterable[Member]) -> Counter[tuple[str, str]]:
    return Counter(tag for member in members for tag in member.tags)


def together(alerts: Iterable[Alert], signature: Signature, now: float, policy: FleetPolicy) -> list[Alert]:
    """The critical alerts of a signature that fire and began within the window, the first of each run."""
    found: dict[int, Alert] = {}
    for alert in sorted(alerts, key=lambda each: each.opened_at):
        fires = alert.state is AlertState.FIRING and alert.severity is Severity.CRITICAL
        if fires and alert.signature is signature and 0 <= now - alert.opened_at <= policy.window_seconds:
            found.setdefault(alert.run_id, alert)
    return list(found.values())


def scope_of(signature: Signature) -> str:
    """The scope of the incident about a signature."""
    return f"signature:{signature.value}"


def is_news(count: int, told: int) -> bool:
    """Whether an incident of so many runs is told again: when it has grown by half."""
    return 2 * count >= 3 * told


def incident(
    signature: Signature, step: int, members: Sequence[Member], others: Sequence[Member], policy: FleetPolicy
) -> Finding:
    """The finding of an incident, dated by a step of the run that carries it."""
    shared = shared_tags(members, others, policy.significance)[:_TAGS_NAMED]
    evidence = Evidence(
        value=float(len(members)),
        threshold=float(policy.least_runs),
        details={
            "of": signature.value,
            "count": len(members),
            "run_ids": [member.run_id for member in members],
            "runs": [str(member.key) for member in members[:_RUNS_NAMED]],
            "shared": [f"{each.name} = {each.value} ({_share(each, members, others)})" for each in shared],
        },
    )
    what = " and ".join(f"{each.name} = {each.value}" for each in shared[:2]) or "no tag beyond chance"
    first = shared[0] if shared else None
    numbers = f" ({_share(first, members, others)})" if first is not None else ""
    minutes = policy.window_seconds / 60
    reason = f"{len(members)} runs fired {signature.value} within {minutes:g} minutes; they share {what}{numbers}"
    return Finding(Signature.FLEET, Severity.CRITICAL, scope_of(signature), step, step, evidence, reason)


def _share(tag: SharedTag, members: Sequence[Member], others: Sequence[Member]) -> str:
    return f"{tag.firing} of {len(members)}, of the others {tag.others} of {len(others)}, p = {tag.probability:.1g}"


def goes_on(fleet: Alert, together: Iterable[Alert]) -> bool:
    """Whether alerts of one moment are of an incident: one of its runs is among them, or one for which it has spoken.

    An incident whose runs have ended fires until people have seen it; it has nothing to do with what comes hours later.
    """
    members = set(fleet.evidence.details.get("run_ids", ()))
    return any(alert.run_id in members or alert.inhibited_by == Signature.FLEET for alert in together)


def speaks_for(fleet: Alert, alert: Alert) -> bool:
    """Whether nobody need hear of one more run: people have heard of the incident, as gravely as they would of this."""
    return fleet.key.project == alert.key.project and not fleet.silenced_by and fleet.told >= alert.severity


def is_over(fleet: Alert, firing: Iterable[Alert]) -> bool:
    """Whether none of the runs of an incident, and none for which it has spoken, fires its signature any more."""
    members = set(fleet.evidence.details.get("run_ids", ()))
    return not any(
        scope_of(alert.signature) == fleet.scope
        and (alert.run_id in members or (alert.inhibited_by == Signature.FLEET and speaks_for(fleet, alert)))
        for alert in firing
    )


def over(fleet: Alert) -> Finding:
    """The finding that an incident is over."""
    reason = "none of its runs fires any more"
    return Finding(Signature.FLEET, Severity.NONE, fleet.scope, fleet.last_step, fleet.since_step, Evidence(), reason)
