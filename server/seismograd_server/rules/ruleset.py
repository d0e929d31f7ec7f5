"""Rules: what is looked for in every run, and what is different for some. Pure.

    Rules --for_run(project/run, tags)--> RunRules: detectors' thresholds, severities, patience of alerts

Overrides that match a run apply in the order of the file, so that a later one outranks an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from seismograd_server.alerts.asking import Policy
from seismograd_server.alerts.fleet import FleetPolicy
from seismograd_server.alerts.lifecycle import LifecyclePolicy
from seismograd_server.detect.watch import WatchConfig
from seismograd_server.model import Finding, RunKey, Severity, Signature

Number = int | float


@dataclass(frozen=True, slots=True)
class SignatureRules:
    """What is said of one signature; what is None or absent is left as it is.

    Attributes:
        mute: whether it is not looked for at all.
        severity: that every finding of it has, instead of the detector's own; NONE = the detector's own again.
        thresholds: fields of the signature's configuration, by name.
    """

    mute: bool | None = None
    severity: Severity | None = None
    thresholds: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a part of the rules says: of signatures, and of alerts (fields of `LifecyclePolicy`, by name)."""

    signatures: Mapping[Signature, SignatureRules] = field(default_factory=dict)
    alerts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """Which runs an override is about: those that fit everything that is said. `*` and `?` stand for any text."""

    project: str = "*"
    run: str = "*"
    tags: Mapping[str, str] = field(default_factory=dict)

    def fits(self, key: RunKey, tags: Mapping[str, str]) -> bool:
        """Whether the override is about this run."""
        return (
            fnmatchcase(key.project, self.project)
            and fnmatchcase(key.run, self.run)
            and all(name in tags and fnmatchcase(tags[name], wanted) for name, wanted in self.tags.items())
        )


@dataclass(frozen=True, slots=True)
class Override:
    """What is different for some runs."""

    match: Match
    changes: Changes


@dataclass(frozen=True, slots=True)
class MatchedPolicy:
    """What alerts ask of the jobs of some runs."""

    match: Match
    policy: Policy


@dataclass(frozen=True, slots=True)
class RunRules:
    """What is true for one run."""

    watch: WatchConfig = field(default_factory=WatchConfig)
    severities: Mapping[Signature, Severity] = field(default_factory=dict)
    alerts: Mapping[str, float] = field(default_factory=dict)
    policies: tuple[Policy, ...] = ()
    fleet: Mapping[str, Any] = field(default_factory=dict)  # fields of `FleetPolicy`, by name

    def grade(self, findings: Iterable[Finding], optimizer: int = 0) -> list[Finding]:
        """The findings of an optimizer with the severities that the rules give them; what is over stays so.

        Those of further optimizers say so in their scope, because a run has one alert for each.
        """
        return [
            replace(
                each,
                severity=each.severity and self.severities.get(each.signature, each.severity),
                scope="/".join([f"optimizer:{optimizer}"] * (optimizer > 0) + [each.scope] * bool(each.scope)),
            )
            for each in findings
        ]

    def policy(self, usual: LifecyclePolicy) -> LifecyclePolicy:
        """How patient the alerts of the run are."""
        return replace(usual, **self.alerts)

    def fleet_policy(self, usual: FleetPolicy) -> FleetPolicy:
        """When an alert of the run, with those of other runs, makes an incident."""
        return replace(usual, **self.fleet)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is looked for; without anything said, the shipped defaults."""

    everywhere: Changes = field(default_factory=Changes)
    overrides: tuple[Override, ...] = ()
    policies: tuple[MatchedPolicy, ...] = ()

    def for_run(self, key: RunKey, tags: Mapping[str, str]) -> RunRules:
        """What is true for a run of this name and with these tags."""
        found = [self.everywhere, *(each.changes for each in self.overrides if each.match.fits(key, tags))]
        said = [(signature, rules) for changes in found for signature, rules in changes.signatures.items()]
        muted = {signature: rules.mute for signature, rules in said if rules.mute is not None}
        severities = {signature: rules.severity for signature, rules in said if rules.severity is not None}
        watch = WatchConfig(muted=frozenset(signature for signature, mute in muted.items() if mute))
        fleet: dict[str, Number] = {}
        for signature, rules in said:
            if signature is Signature.FLEET:
                fleet.update(rules.thresholds)
            elif rules.thresholds:
                name = signature.value
                watch = replace(watch, **{name: replace(getattr(watch, name), **rules.thresholds)})
        return RunRules(
            watch=watch,
            severities={signature: severity for signature, severity in severities.items() if severity},
            alerts={name: value for changes in found for name, value in changes.alerts.items()},
            policies=tuple(each.policy for each in self.policies if each.match.fits(key, tags)),
            fleet=fleet,
        )
