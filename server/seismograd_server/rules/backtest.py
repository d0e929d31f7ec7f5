"""What the detectors say of a run that is there from its first step to its last: the same code as in a live server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seismograd_server.detect.watch import RunWatch
from seismograd_server.model import ClosedBlock, Finding, Severity, Signature
from seismograd_server.rules.ruleset import RunRules


@dataclass(frozen=True, slots=True)
class Backtest:
    """What came of it.

    Attributes:
        steps: that were looked at.
        findings: that somebody would be told of (warning and worse), in the order of their steps. What a finding says
            uses nothing behind its step.
        failures: detectors that failed, and why.
    """

    steps: int
    findings: tuple[Finding, ...]
    failures: tuple[tuple[Signature, str], ...]


def backtest(blocks: Iterable[ClosedBlock], rules: RunRules, optimizer: int = 0) -> Backtest:
    """Look at the closed blocks of one optimizer of one run, from its first step on."""
    watch = RunWatch(rules.watch)
    steps, findings, failures = 0, list[Finding](), list[tuple[Signature, str]]()
    for block in blocks:
        observation = watch.observe(block)
        steps += block.count
        findings += [each for each in rules.grade(observation.findings, optimizer) if each.severity >= Severity.WARNING]
        failures += observation.failures
    return Backtest(steps, tuple(findings), tuple(failures))
