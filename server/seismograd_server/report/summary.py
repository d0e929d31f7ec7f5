"""The three sentences at the head of a report, and its headline. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seismograd_server.display.numbers import duration, figure, times
from seismograd_server.display.text import plural
from seismograd_server.model import Alert, RunState, Severity, Signature
from seismograd_server.reading.history import History
from seismograd_server.reading.totals import totals_of
from seismograd_server.report.contents import FailureKind, Focus, Healthy, Verdict
from seismograd_server.report.focus import norm_rose

_HOW_FAILED = {
    FailureKind.NONFINITE_LOSS: "the loss stopped being a number",
    FailureKind.LOSS_TENFOLD: "the loss passed ten times its best for good",
    FailureKind.NONFINITE_GRADIENT: "the gradients stopped being finite",
}
_NAMES = {
    Signature.NONFINITE: "non-finite gradients",
    Signature.RUNAWAY: "runaway gradient growth",
    Signature.SPIKE: "a gradient spike",
    Signature.DEPTH_GROWTH: "growth through the depth",
    Signature.RECURRENT_GAIN: "a recurrent gain above one",
    Signature.UPDATE_OVERSHOOT: "updates too large for the weights",
    Signature.CLIP_SATURATION: "clipping on nearly every step",
    Signature.RANK_OUTLIER: "one rank apart from the others",
    Signature.REPLICA_DESYNC: "replicas that disagree",
    Signature.LOSS_SCALE_COLLAPSE: "a collapsing loss scale",
    Signature.LOSS_DIVERGENCE: "a diverging loss",
    Signature.VANISHING: "vanishing gradients",
    Signature.DEAD_LAYER: "a dead layer",
    Signature.STALLED: "a stall",
    Signature.FLEET: "the same failure in several runs",
}


def signature_name(signature: Signature) -> str:
    """A signature in words."""
    return _NAMES[signature]


def how_failed(kind: FailureKind) -> str:
    """A failure as half a sentence."""
    return _HOW_FAILED[kind]


def verdict_of(history: History, focus: Focus, grave: bool) -> Verdict:
    """What became of the run. `grave`: whether a critical alert was raised that did not recover."""
    if not history.series.count:
        return Verdict.NO_DATA
    if focus.failure is not None or grave:
        return Verdict.DIVERGED if _is_calm(history, focus) else Verdict.EXPLODED
    return Verdict.ALERTED if focus.lead is not None else Verdict.HEALTHY


def _is_calm(history: History, focus: Focus) -> bool:
    """Whether the loss failed while the gradients stayed where they were."""
    if focus.lead is not None:
        return focus.lead.signature is Signature.LOSS_DIVERGENCE
    if focus.failure is None or focus.failure_kind is not FailureKind.LOSS_TENFOLD:
        return False
    return not norm_rose(history.series, history.series.row(focus.onset if focus.onset is not None else focus.failure))


def headline(history: History, verdict: Verdict, focus: Focus) -> str:
    """The verdict in a few words."""
    running = history.run.state is RunState.RUNNING
    if verdict is Verdict.NO_DATA:
        return "No step has arrived yet" if running else "No step ever arrived"
    if verdict is Verdict.HEALTHY:
        return "Nothing has happened so far" if running else "Nothing happened"
    if verdict is Verdict.ALERTED:
        lead = focus.lead
        seen = "an alert" if lead is None else signature_name(lead.signature)
        return f"Seen: {seen}; the run {'goes on' if running else 'survived it'}"
    word = "Diverged" if verdict is Verdict.DIVERGED else "Exploded"
    step = focus.onset if focus.onset is not None else focus.failure
    return f"{word} from step {step:,} on" if step is not None else word


@dataclass(frozen=True, slots=True)
class Story:
    """What the sentences tell.

    Attributes:
        doubling: steps in which the norm doubled; None = it did not.
        where: "layer x" or "rank 3" or both, as a phrase; empty = unknown.
        next_step: the first thing to try, as a title; empty = nothing.
        likely: the likely cause, as a title; empty = none is.
    """

    verdict: Verdict
    focus: Focus
    healthy: Healthy | None
    doubling: float | None
    where: str
    next_step: str
    likely: str = ""


def summarise(history: History, story: Story, now: float) -> tuple[str, str, str]:
    """Three sentences: what happened, where it came from and when it was seen, what to do."""
    if story.verdict is Verdict.NO_DATA:
        return _nothing_known(history, now)
    if story.verdict is Verdict.HEALTHY:
        return _healthy(history, story.healthy, now)
    return (
        _what(history, story),
        _whence(history, story.focus, story.where),
        _what_next(history, story, now),
    )


def _nothing_known(history: History, now: float) -> tuple[str, str, str]:
    run = history.run
    opened = f"{plural(len(history.ranks), 'rank')} of {run.world_size:,} opened it"
    ago = duration(max(0.0, now - run.started_at))
    first = f"No step of this run has been closed, so there is nothing to judge: {opened}, {ago} ago."
    second = "A step is closed once every rank has reported it, or a few seconds after the first one did."
    third = (
        "Look at the job's own output: before its first optimizer step there is nothing to send, and "
        "`seismograd doctor` tells whether the server can be reached."
    )
    return first, second, third


def _state_phrase(history: History, now: float) -> str:
    run = history.run
    if run.state is RunState.RUNNING:
        age = (
            "" if run.last_record_at is None else f", last heard of {duration(max(0.0, now - run.last_record_at))} ago"
        )
        return f"is still running at step {history.series.steps[-1]:,}{age}"
    verb = {RunState.FINISHED: "finished", RunState.FAILED: "ended with an error", RunState.LOST: "fell silent"}[
        run.state
    ]
    return f"{verb} after step {history.series.steps[-1]:,}"


def _healthy(history: History, healthy: Healthy | None, now: float) -> tuple[str, str, str]:
    series, totals = history.series, totals_of(history.series, history.run.world_size, history.whole)
    running = history.run.state is RunState.RUNNING
    first = "Nothing has happened so far" if running else "Nothing happened"
    norm = "No gradient norm was captured, so no detector could see."
    if healthy is not None:
        norm = (
            f"The gradient norm stayed around {figure(healthy.median)} (its 5th to 99th percentile: "
            f"{figure(healthy.low)} to {figure(healthy.top)}) over {plural(totals.steps, 'step')}"
        )
    loss = series.loss[series.loss_known & np.isfinite(series.loss)]
    if len(loss) >= 2:
        norm = norm.rstrip(".") + f", while the loss went from {figure(float(loss[0]))} to {figure(float(loss[-1]))}."
    elif not norm.endswith("."):
        norm += "; no loss was logged."
    return (
        f"{first}: no detector fired, and the run {_state_phrase(history, now)}.",
        norm,
        "There is nothing to mend; what the detectors could not see is stated at the end.",
    )


def _what(history: History, story: Story) -> str:
    focus, healthy, doubling = story.focus, story.healthy, story.doubling
    lead = focus.lead
    what = "loss" if story.verdict is Verdict.DIVERGED else "gradients"
    seen = f"Its {what} left {'its' if what == 'loss' else 'their'} usual range"
    if lead is not None:
        seen = _capital(signature_name(lead.signature))
    at = f"at step {focus.onset:,}" if focus.onset is not None else f"at step {focus.failure or 0:,}"
    growth = ""
    row = history.series.row(focus.onset) if focus.onset is not None else -1
    peak = _peak(history, row, focus)
    if healthy is not None and peak is not None and peak > 2 * healthy.median:
        usual = "its usual" if healthy.settled else "a first"
        growth = f", from {usual} {figure(healthy.median)} to {figure(peak)} ({times(peak / healthy.median)})"
        if doubling is not None and doubling > 0:
            growth += (
                f", doubling every {figure(doubling, 2)} steps" if doubling >= 1 else ", more than doubling each step"
            )
    seen_as = f"{seen} began {at}{growth}" if lead is not None else f"{seen} {at}{growth}"
    if focus.failure is not None and focus.failure_kind is not None:
        return f"{seen_as}, until {how_failed(focus.failure_kind)} at step {focus.failure:,}."
    if story.verdict is Verdict.ALERTED and history.run.state in {RunState.RUNNING, RunState.FINISHED}:
        return f"{seen_as}; the run came through it."
    return f"{seen_as}."


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _peak(history: History, row: int, focus: Focus) -> float | None:
    if row < 0:
        return None
    end = history.series.count if focus.failure is None else history.series.row(focus.failure) + 1
    norm = history.series.norm[row : max(end, row + 1)]
    finite = norm[np.isfinite(norm)]
    return float(finite.max()) if len(finite) else None


def _whence(history: History, focus: Focus, where: str) -> str:
    origin = f"It came first from {where}" if where else "No single layer or rank stood out"
    if focus.detected is None or focus.lead is None:
        return f"{origin}; no detector raised an alert."
    alert = f"{origin}; {_seen(history, focus, focus.lead)}"
    if focus.failure is None:
        return f"{alert}."
    lead_steps = focus.failure - focus.detected
    if lead_steps <= 0:
        return f"{alert}, with the failure and not before it."
    seconds = _seconds_between(history, focus.detected, focus.failure)
    spare = f" ({duration(seconds)})" if seconds is not None else ""
    return f"{alert}, {plural(lead_steps, 'step')}{spare} before the failure."


def _seen(history: History, focus: Focus, lead: Alert) -> str:
    """When it was noticed: by the leading alert, or by a milder one of the same incident before it."""
    opening = history.openings.get(lead.alert_id)
    raised, severity = f"alert was raised at step {lead.opened_step:,}", lead.severity.label
    if opening is not None and opening.severity < lead.severity:
        raised = f"the {raised} ({opening.severity.label}, later {severity})"
    else:
        raised = f"the {severity} {raised}"
    earlier = [
        alert
        for alert in history.alerts
        if alert.severity > Severity.INFO and (focus.onset or 0) <= alert.opened_step < lead.opened_step
    ]
    if not earlier:
        return raised
    first = min(earlier, key=lambda alert: alert.opened_step)
    return f"{signature_name(first.signature)} was reported at step {first.opened_step:,}, and {raised}"


def _seconds_between(history: History, first: int, last: int) -> float | None:
    series = history.series
    if series.row(first) < 0 or series.row(last) < 0:
        return None
    seconds = float(series.times[series.row(last)] - series.times[series.row(first)])
    return seconds if seconds > 0 else None


def _what_next(history: History, story: Story, now: float) -> str:
    state = f"The run {_state_phrase(history, now)}"
    if story.likely:
        state += f"; likely cause: {_small(story.likely)}"
    if not story.next_step:
        return f"{state}."
    lead_in = "should it return, try first" if story.verdict is Verdict.ALERTED else "what to try first"
    return f"{state}; {lead_in}: {_small(story.next_step)}."
