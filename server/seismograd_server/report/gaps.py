"""What the data miss and what the detectors could not see: a report that hides its limits is not evidence. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.display.numbers import duration, share
from seismograd_server.display.text import plural, printable
from seismograd_server.model import Visibility
from seismograd_server.reading.history import History, damage_sentence
from seismograd_server.reading.totals import Totals, totals_of
from seismograd_server.report.contents import Focus, Healthy, Verdict
from seismograd_server.report.summary import signature_name

# A pause this many times the usual step is worth a line.
_LONG_PAUSE = 30.0


def data_gaps(history: History) -> tuple[str, ...]:
    """Steps, ranks and records that are missing, as sentences."""
    series = history.series
    gaps = [f"{what}: {why}." for what, why in sorted(history.notes.items())]
    gaps.extend(printable(damage_sentence(history.run.key, first, last)) for first, last in history.damaged)
    if not series.count:
        return tuple(gaps)
    if history.removed:
        gaps.append("Single steps are kept around its alerts and at its ends only; of the others there are summaries.")
    totals = totals_of(series, history.run.world_size, history.whole)
    if totals.missing and totals.spacing <= 1:
        gaps.append(
            f"{plural(totals.missing, 'step')} between {series.steps[0]:,} and {series.steps[-1]:,} never arrived, "
            f"the longest stretch ({totals.longest_gap:,}) after step {totals.longest_gap_after:,}."
        )
    elif totals.spacing > 1:
        gaps.append(f"Steps are {totals.spacing:,} apart: what happened between them is not recorded.")
    if history.run.attempts <= 1 and totals.partial:
        least = "At least " if totals.partial_at_least else ""
        gaps.append(
            f"{least}{plural(totals.partial, 'step')} ({share(totals.partial / totals.steps)}) closed without all "
            f"{history.run.world_size:,} ranks; the first was step {totals.first_partial:,}."
        )
    if totals.unknown_norms:
        gaps.append(f"The gradient norm of {plural(totals.unknown_norms, 'step')} is not known.")
    dropped = sum(sum(health.dropped_records.values()) for health in history.health)
    if dropped:
        gaps.append(f"The clients dropped {plural(dropped, 'record')} before they could be sent.")
    if history.run.attempts > 1:
        gaps.append(
            f"This is the story of {history.run.attempts:,} attempts; where a later one repeated steps, only the later "
            "one is shown."
        )
    gaps.extend(_pauses(totals))
    skews = [abs(health.clock_skew_seconds) for health in history.health]
    if skews and max(skews) > 1:
        gaps.append(
            f"A client's clock is {duration(max(skews))} off the server's; steps are ordered by number, not time."
        )
    return tuple(gaps)


def _pauses(totals: Totals) -> list[str]:
    if totals.steps <= 20 or totals.usual_pause <= 0:
        return []
    if totals.longest_pause < max(60.0, _LONG_PAUSE * totals.usual_pause):
        return []
    return [f"Nothing arrived for {duration(totals.longest_pause)} after step {totals.longest_pause_after:,}."]


def blind_spots(history: History, focus: Focus, healthy: Healthy | None, verdict: Verdict) -> tuple[str, ...]:
    """What the detectors could not see, as sentences; from the live run's own detectors where there are some."""
    series = history.series
    spots = [
        f"{signature_name(status.signature)}: {status.because or status.visibility.value.replace('_', ' ')}."
        for status in history.statuses
        if status.visibility is not Visibility.ARMED
    ]
    if not series.count:
        return (*spots, "Everything: no step was closed.")
    if not series.loss_known.any():
        spots.append(
            "The loss: it was never logged (`monitor.log(loss=...)`), so divergence with calm gradients stays unseen."
        )
    if history.layers is None:
        spots.append("The layers: their norms were not captured or not read, so no layer can be named.")
    elif not np.isfinite(history.layers.update_norms).any():
        spots.append(
            "The size of the updates: none was sampled in this window; it tells best whether a spike is harmless."
        )
    if history.run.world_size > 1 and (
        history.rank_window is None
        or not (np.isfinite(history.rank_window.norm).any() or history.rank_window.loss_known.any())
    ):
        spots.append("Single ranks: neither their losses nor their local norms were sampled, so no rank can be named.")
    if focus.onset is not None and healthy is not None and not healthy.settled:
        spots.append("A usual level: there were hardly any healthy steps before the onset to compare with.")
    if focus.failure is not None and focus.detected is None and verdict is not Verdict.HEALTHY:
        spots.append(
            "This failure itself: no detector raised an alert. Some runs die without a sign in the norm; this report "
            "shows what the data hold and claims no more."
        )
    return tuple(spots)
