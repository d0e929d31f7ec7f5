"""What the job was asked for and what the flight recorders held, as rows of words. Pure."""

from __future__ import annotations

from collections import Counter

from seismograd_server.display.numbers import figure, timestamp
from seismograd_server.display.text import plural
from seismograd_server.model import BY_ALERT, AskedDirective, DirectiveKind
from seismograd_server.reading.history import Recorded

# Directives and ranks shown: those of an incident. The JSON report has all.
SHOWN = 24


def asked_rows(directives: tuple[AskedDirective, ...]) -> list[tuple[str, str, str, str, str]]:
    """(what, by whom, when, why, what came of it) of the latest directives."""
    return [
        (
            _what(each),
            "an alert" if each.directive.asked_by == BY_ALERT else each.directive.asked_by,
            timestamp(each.directive.asked_at),
            each.directive.reason,
            what_came_of_it(each),
        )
        for each in directives[-SHOWN:]
    ]


def _what(asked: AskedDirective) -> str:
    directive = asked.directive
    if directive.kind is DirectiveKind.CAPTURE_MORE:
        return f"capture of steps {directive.first_step:,} to {directive.last_step:,}"
    return directive.kind.word


def what_came_of_it(asked: AskedDirective) -> str:
    """By outcome, with the step and the reason where they are the same for all: "2 ranks applied after step 312"."""
    counts = Counter("no answer" if each.outcome is None else each.outcome.value for each in asked.addressees)
    parts = []
    for outcome, count in sorted(counts.items()):
        same = [each for each in asked.addressees if (each.outcome.value if each.outcome else "no answer") == outcome]
        steps = {each.step for each in same if each.step is not None}
        reasons = {each.reason for each in same if each.reason}
        text = f"{plural(count, 'rank')} {outcome}" if outcome != "no answer" else f"{plural(count, 'rank')}: no answer"
        if len(steps) == 1:
            text += f" after step {steps.pop():,}"
        if len(reasons) == 1:
            text += f" ({reasons.pop()})"
        parts.append(text)
    return "; ".join(parts) or "nobody was there"


def recorded_rows(recorded: tuple[Recorded, ...]) -> list[tuple[str, str, str, str, str]]:
    """(rank, steps, largest norm, where, first NaN or Inf) of the first ranks."""
    return [
        (
            f"{each.rank}" + (f" ({each.hostname})" if each.hostname else ""),
            f"{each.steps:,} of {each.first_step:,} to {each.last_step:,}",
            f"{figure(each.largest)} at step {each.largest_step:,}",
            each.layer or "–",
            "–" if each.nonfinite_step is None else f"step {each.nonfinite_step:,}",
        )
        for each in recorded[:SHOWN]
    ]
