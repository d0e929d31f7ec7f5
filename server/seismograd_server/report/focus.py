"""Where it went wrong: the failure as the data show it, the onset as the detectors or the data show it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seismograd_server.model import Alert, AlertState, Bool, Float64, Resolution, Severity, Signature
from seismograd_server.reading.history import Series
from seismograd_server.report.contents import FailureKind, Focus, Healthy

# The demo's and the scorer's definition of a failed loss: ten times its best.
_FAILED_LOSS_RATIO = 10.0
# "Its best" is the best median of so many losses, because one lucky batch is no level.
_REFERENCE_STEPS = 9
_FAILED_NORM_RATIO = 10.0
_FAILED_STEPS = 10
# Steps of context before an onset; as many as a heatmap shows comfortably beside the incident itself.
_CONTEXT_BEFORE = 24
_CONTEXT_AFTER = 6
# Layers are read for at most so many steps: beyond it a page would wait for segments nobody can see as columns.
_WINDOW_LIMIT = 1500
# Fewer norms than this are no level to compare with.
_SETTLED_COUNT = 12
# Start-up steps left out of the usual level, when enough others remain: norms fall fast at first in most runs.
_START_UP = 20
# Without a detector's word, an onset is where the norm last was within two octaves of its median.
_ONSET_RATIO = 4.0


def find_focus(series: Series, alerts: Sequence[Alert]) -> Focus:
    """Where to look closely, from the alerts where there are any and from the data otherwise."""
    failure_row, kind = find_failure(series, confirmed=any(alert.severity is Severity.CRITICAL for alert in alerts))
    lead, onset_row = _onset(series, alerts, failure_row)
    if not series.count:
        return Focus(None, None, None, None, None, 0, 0, lead)
    failure = None if failure_row is None else int(series.steps[failure_row])
    if onset_row is None:
        last = int(series.steps[-1])
        return Focus(None, None, failure, kind, None, max(int(series.steps[0]), last - 59), last, None)
    first_row, last_row = _window(series, onset_row, failure_row, lead)
    return Focus(
        onset=int(series.steps[onset_row]),
        detected=None if lead is None else lead.opened_step,
        failure=failure,
        failure_kind=kind,
        last_healthy=int(series.steps[onset_row - 1]) if onset_row > 0 else None,
        first_step=int(series.steps[first_row]),
        last_step=int(series.steps[last_row]),
        lead=lead,
    )


def find_failure(series: Series, *, confirmed: bool) -> tuple[int | None, FailureKind | None]:
    """Row of the first step of a failure that lasts to the end, and how it shows; (None, None) when nothing failed.

    Args:
        series: the run.
        confirmed: a detector raised a critical alert. Otherwise a loss must stay high for ten steps, and either be
            worse than at the start or come with a tenfold norm: late in training, losses of single batches scatter by
            more than a factor of ten around a tiny level.
    """
    known = np.flatnonzero(series.loss_known)
    loss = series.loss[known]
    row = _lasting(~np.isfinite(loss))
    if row is not None:
        return int(known[row]), FailureKind.NONFINITE_LOSS
    if len(loss) > _REFERENCE_STEPS:
        best = np.minimum.accumulate(_rolling_median(loss))
        row = _lasting((loss > _FAILED_LOSS_RATIO * best) & (best > 0))
        if row is not None and (confirmed or _is_grave(series, loss, row, int(known[row]))):
            return int(known[row]), FailureKind.LOSS_TENFOLD
    row = _lasting(series.broken)
    return (row, FailureKind.NONFINITE_GRADIENT) if row is not None else (None, None)


def _is_grave(series: Series, loss: Float64, loss_row: int, row: int) -> bool:
    """Whether a loss far above its best is a failure without a detector's word."""
    after = loss[loss_row:]
    if len(after) < _FAILED_STEPS:
        return False
    return bool(np.median(after) > np.median(loss[:_REFERENCE_STEPS])) or norm_rose(series, row)


def norm_rose(series: Series, row: int) -> bool:
    """Whether the norm from a row on reached ten times its median before."""
    before, after = series.norm[:row], series.norm[row:]
    before = before[np.isfinite(before) & (before > 0)]
    after = after[np.isfinite(after)]
    return bool(len(before) and len(after) and after.max() > _FAILED_NORM_RATIO * np.median(before))


def _lasting(bad: Bool) -> int | None:
    """First row that is bad, with the last row bad and at least half of all between: what came once is no failure."""
    if not len(bad) or not bad[-1]:
        return None
    from_here = np.cumsum(bad[::-1], dtype=np.int64)[::-1]
    remaining = np.arange(len(bad), 0, -1)
    rows = np.flatnonzero(bad & (2 * from_here >= remaining))
    return int(rows[0])


def _rolling_median(values: Float64) -> Float64:
    """Median of the values up to each one; Inf stands for what is not finite."""
    finite = np.where(np.isfinite(values), values, np.inf)
    padded = np.concatenate((np.full(_REFERENCE_STEPS - 1, np.inf), finite))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _REFERENCE_STEPS)
    return np.asarray(np.median(windows, axis=1), np.float64)


def _onset(series: Series, alerts: Sequence[Alert], failure_row: int | None) -> tuple[Alert | None, int | None]:
    lead, since = _leading_alert(alerts)
    if lead is not None and series.count:
        row = max(0, series.row(since))
        if row + 1 < series.count and series.steps[row] < since:
            row += 1
        if failure_row is not None and failure_row < row:
            row = failure_row
        return lead, row
    if failure_row is not None:
        return lead, _onset_from_data(series, failure_row)
    return lead, None


def _leading_alert(alerts: Sequence[Alert]) -> tuple[Alert | None, int]:
    """The alert that tells the story, and the first step of the condition: the first of the gravest that stayed."""
    shown = [
        alert
        for alert in alerts
        # An incident of several runs is no condition of this one.
        if alert.state is not AlertState.PENDING
        and alert.severity > Severity.INFO
        and alert.signature is not Signature.FLEET
    ]
    if not shown:
        return None, 0
    gravest = max(alert.severity for alert in shown)
    grave = [alert for alert in shown if alert.severity is gravest]
    stayed = [alert for alert in grave if alert.resolution is not Resolution.RECOVERED] or grave
    lead = min(stayed, key=lambda alert: (alert.opened_step, alert.since_step))
    # Other grave alerts of the same incident may date the beginning earlier than the one that opened first.
    since = min(alert.since_step for alert in stayed if alert.since_step <= lead.opened_step)
    return lead, since


def _onset_from_data(series: Series, failure_row: int) -> int:
    before = series.norm[: failure_row + 1]
    usable = before[np.isfinite(before) & (before > 0)]
    if len(usable) < 3:
        return failure_row
    usual = float(np.median(usable[: max(3, len(usable) // 2)]))
    calm = np.flatnonzero((before <= _ONSET_RATIO * usual) & ~series.broken[: failure_row + 1])
    return min(failure_row, int(calm[-1]) + 1) if len(calm) else 0


def _window(series: Series, onset_row: int, failure_row: int | None, lead: Alert | None) -> tuple[int, int]:
    end = onset_row + _CONTEXT_BEFORE
    if failure_row is not None:
        end = max(onset_row + 1, failure_row)
    elif lead is not None:
        end = max(end, series.row(lead.last_step))
    length = end - onset_row
    first = max(0, onset_row - min(max(_CONTEXT_BEFORE, length // 2), _WINDOW_LIMIT // 3))
    last = min(series.count - 1, end + max(_CONTEXT_AFTER, length // 6), first + _WINDOW_LIMIT)
    return first, last


def healthy_norms(series: Series, onset: int | None) -> Healthy | None:
    """The usual level of the norm before the onset (or over the whole run); None when no norm is known.

    When fewer than twelve norms precede the onset there is no usual level: the earliest ones are described, unsettled.
    """
    calm = np.isfinite(series.norm) & (series.norm > 0) & ~series.broken & ~series.skipped
    rows = np.flatnonzero(calm)
    before = rows if onset is None else rows[series.steps[rows] < onset]
    if len(before) >= 3 * _START_UP:
        before = before[_START_UP:]
    settled = len(before) >= _SETTLED_COUNT
    if not settled:
        before = rows[: max(3, len(before))]
    if not len(before):
        return None
    norms = series.norm[before]
    low, median, high, top = np.percentile(norms, [5, 50, 90, 99]).tolist()
    return Healthy(len(norms), low, median, high, top, float(norms.max()), settled)


def doubling_steps(series: Series, focus: Focus) -> float | None:
    """Steps in which the norm doubled between onset and failure, by least squares on its logarithm.

    None when the incident is too short to tell, or when the norm did not grow by an octave.
    """
    if focus.onset is None:
        return None
    if focus.lead is not None and focus.lead.evidence.doubling_time_steps is not None:
        return focus.lead.evidence.doubling_time_steps
    first = max(0, series.row(focus.onset))
    last = series.count - 1 if focus.failure is None else series.row(focus.failure)
    norm = series.norm[first : last + 1]
    good = np.isfinite(norm) & (norm > 0)
    if good.sum() < 3:
        return None
    steps = series.steps[first : last + 1][good].astype(np.float64)
    level = np.log2(norm[good])
    if level.max() - level[0] < 1:
        return None
    slope = float(np.polyfit(steps - steps[0], level, 1)[0])
    return 1 / slope if slope > 0 else None
