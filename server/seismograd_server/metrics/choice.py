"""Which runs are exported: every series costs whoever scrapes, so the number of runs is bounded, firing ones first."""

from __future__ import annotations

from dataclasses import dataclass

from seismograd_server.metrics.layers import LayerChoice
from seismograd_server.model import RunState, RunView, Severity, Snapshot


@dataclass(frozen=True, slots=True)
class ExportLimits:
    """How much of what is live is exported.

    Attributes:
        runs: most runs on the page; at 64 series each, 200 runs are what a small Prometheus takes without notice.
        ended_seconds: how long a run that is over and does not fire stays on the page, so that its last values are
            scraped at any usual interval.
        layers: which layers of each run; None = none.
    """

    runs: int = 200
    ended_seconds: float = 15 * 60.0
    layers: LayerChoice | None = None


DEFAULT_LIMITS = ExportLimits()


def exported(snapshot: Snapshot, now: float, limits: ExportLimits) -> tuple[list[RunView], int]:
    """The runs to export, the most important first, and how many more there would have been."""
    worthy = [view for view in snapshot.runs if _is_worthy(view, now, limits)]
    worthy.sort(key=_importance)
    return worthy[: limits.runs], max(0, len(worthy) - limits.runs)


def _is_worthy(view: RunView, now: float, limits: ExportLimits) -> bool:
    run = view.run
    if run.state is RunState.RUNNING or _worst(view) > Severity.NONE:
        return True
    ended_at = next((time for time in (run.ended_at, run.last_record_at) if time is not None), run.started_at)
    return now - ended_at < limits.ended_seconds


def _importance(view: RunView) -> tuple[int, bool, float]:
    return -_worst(view), view.run.state is not RunState.RUNNING, -view.run.started_at


def _worst(view: RunView) -> Severity:
    return max(view.active.values(), default=Severity.NONE)
