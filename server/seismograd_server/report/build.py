"""From a run's history to what its post-mortem says. Pure: no I/O, no clock; `now` is an argument."""

from __future__ import annotations

from seismograd_server.display.curves import CurveData, curve_data, curves_of_buckets
from seismograd_server.display.heat import Heatmap, heatmap, octaves_above_median
from seismograd_server.display.text import plural
from seismograd_server.model import Resolution, RunState, Severity, Signature
from seismograd_server.reading.history import History
from seismograd_server.report import layers as layer_order
from seismograd_server.report.advice import Case, advise
from seismograd_server.report.causes import diagnose
from seismograd_server.report.clip.study import study
from seismograd_server.report.configuration import settings
from seismograd_server.report.contents import Cause, Focus, LayerRise, RankView, Report, Verdict
from seismograd_server.report.facts import configuration, key_facts, last_good_checkpoint, number_alerts, timeline
from seismograd_server.report.focus import doubling_steps, find_focus, healthy_norms
from seismograd_server.report.gaps import blind_spots, data_gaps
from seismograd_server.report.nearest import Nearest
from seismograd_server.report.ranks import compare_ranks
from seismograd_server.report.summary import Story, headline, summarise, verdict_of

# Findings about one rank. Of any other, the leading rank is the one whose numbers were largest: one always is.
_OF_ONE_RANK = frozenset({Signature.RANK_OUTLIER, Signature.REPLICA_DESYNC, Signature.NONFINITE})


def build(history: History, now: float, focus: Focus | None = None, nearest: Nearest | None = None) -> Report:
    """The report of a run, finished or still going.

    Args:
        history: what was read; `layers` and `rank_window` cover the focus.
        now: Unix seconds, for ages.
        focus: where to look closely, when the caller already found it (`find_focus`) to know what to read.
        nearest: the healthy run of the project that is most like this one, when it was looked for.
    """
    series = history.series
    focus = focus or find_focus(series, history.alerts)
    verdict = verdict_of(history, focus, _grave(history))
    healthy = healthy_norms(series, focus.onset)
    doubling = doubling_steps(series, focus)
    checkpoint = last_good_checkpoint(history.checkpoints, focus.onset)
    grid, rises = _layers(history, focus)
    ranks = compare_ranks(history.rank_window, focus.onset, focus.lead)
    alerts = number_alerts(history)
    depth = None if history.layers is None else layer_order.depth_growth(history.layers, focus.onset)
    clip = study(series, focus.onset, closed=None if history.whole is None else int(history.whole.steps.sum()))
    case = Case(
        series,
        focus,
        verdict,
        healthy,
        history.alerts,
        history.layers,
        rises,
        ranks,
        checkpoint,
        doubling,
        depth,
        clip,
        settings(history.run),
        nearest,
        history.weights,
    )
    advice = advise(case)
    causes = diagnose(case)
    where = _where(focus, rises, ranks, blamed=case.blames_rank)
    first_try = advice[0].title if advice else ""
    return Report(
        key=history.run.key,
        run=history.run,
        written_at=now,
        verdict=verdict,
        headline=headline(history, verdict, focus),
        summary=summarise(history, Story(verdict, focus, healthy, doubling, where, first_try, _likely(causes)), now),
        focus=focus,
        healthy=healthy,
        facts=key_facts(history, focus, healthy, doubling, checkpoint),
        timeline=timeline(history, focus, alerts=alerts, rises=rises, ranks=ranks, checkpoint=checkpoint),
        whole=_whole(history, focus),
        around=curve_data(series, focus.first_step, focus.last_step, focus.onset) if focus.onset is not None else None,
        heatmap=grid,
        rises=rises,
        ranks=ranks,
        alerts=alerts,
        checkpoint=checkpoint,
        directives=tuple(reversed(history.directives)),
        recorded=history.recorded,
        configuration=configuration(history),
        causes=causes,
        advice=advice,
        clip=clip,
        nearest=nearest,
        gaps=data_gaps(history),
        blind=blind_spots(history, focus, healthy, verdict),
    )


def _grave(history: History) -> bool:
    """Whether a critical alert was raised that did not recover; while a run lives, a firing one counts."""
    return any(
        alert.severity is Severity.CRITICAL and alert.resolution is not Resolution.RECOVERED for alert in history.alerts
    )


def _whole(history: History, focus: Focus) -> CurveData | None:
    series = history.series
    if history.whole is not None:
        return curves_of_buckets(history.whole, focus.onset)
    return curve_data(series, int(series.steps[0]), int(series.steps[-1]), focus.onset) if series.count else None


def _layers(history: History, focus: Focus) -> tuple[Heatmap | None, tuple[LayerRise, ...]]:
    window = history.layers
    if window is None or not window.names or not len(window.steps):
        return None, ()
    octaves = octaves_above_median(window, focus.onset)
    named = None if focus.lead is None else focus.lead.evidence.leading_layer
    rises = layer_order.rising_layers(window, focus.onset, history.nonfinite, octaves, named=named)
    return heatmap(window, octaves, [rise.name for rise in rises], history.nonfinite), rises


def _likely(causes: tuple[Cause, ...]) -> str:
    """The likeliest cause, when the data say that it is likely."""
    return causes[0].title if causes and causes[0].word == "likely" else ""


def _where(focus: Focus, rises: tuple[LayerRise, ...], ranks: RankView | None, *, blamed: bool) -> str:
    """The place an incident came from, as a phrase; the detector's word where the data show no order."""
    layer = rises[0].name if rises else None
    evidence = None if focus.lead is None else focus.lead.evidence
    if layer is None and evidence is not None:
        layer = evidence.leading_layer
    rank = None if ranks is None or not blamed else ranks.suspect
    if rank is None and evidence is not None and focus.lead is not None and focus.lead.signature in _OF_ONE_RANK:
        rank = evidence.leading_rank
    together = sum(1 for rise in rises if rise.step == rises[0].step) - 1 if rises else 0
    place = f"layer {layer}" if layer else ""
    if layer and together:
        place += f" (with {plural(together, 'other layer')} in the same step)"
    if rank is None:
        return place
    return f"{place}, on rank {rank}" if place else f"rank {rank}"


def is_over(report: Report) -> bool:
    """Whether the report is final: the run has ended."""
    return report.run.state is not RunState.RUNNING and report.verdict is not Verdict.NO_DATA
