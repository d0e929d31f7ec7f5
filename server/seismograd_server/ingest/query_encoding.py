"""Domain types as the messages of query.proto."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from seismograd_proto.v1 import query
from seismograd_server.model import TALLIES, Alert, ClosedBlock, Run, Summary
from seismograd_server.reading.encoding import evidence_json
from seismograd_server.reading.runs import worst
from seismograd_server.reading.series import series_of
from seismograd_server.store.blocks import StepChunk

# A chunk of layers stays below this, so that no message nears gRPC's 4 MiB.
_LAYER_BYTES = 2**20
_SUMMARY_BYTES = 3 * 4 + 8  # of one layer in one bucket


def run_message(run: Run, firing: Sequence[Alert]) -> query.Run:
    """A run with the gravest of its firing alerts."""
    return query.Run(
        project=run.key.project,
        run=run.key.run,
        state=run.state.value,
        started_unix_seconds=run.started_at,
        last_record_unix_seconds=run.last_record_at or 0.0,
        last_step=-1 if run.last_step is None else run.last_step,
        closed_steps=run.closed_steps,
        world_size=run.world_size,
        attempts=run.attempts,
        tags=dict(run.tags),
        config_json=run.config_json,
        severity=worst(firing).label if firing else "",
        firing_alerts=len(firing),
        framework=run.framework,
        failure_reason=run.failure_reason,
    )


def alert_message(alert: Alert) -> query.Alert:
    """An alert with its evidence."""
    return query.Alert(
        alert_id=alert.alert_id,
        project=alert.key.project,
        run=alert.key.run,
        signature=alert.signature.value,
        severity=alert.severity.label,
        state=alert.state.value,
        since_step=alert.since_step,
        opened_step=alert.opened_step,
        last_step=alert.last_step,
        opened_unix_seconds=alert.opened_at,
        resolved_unix_seconds=alert.resolved_at or 0.0,
        resolution=alert.resolution.value if alert.resolution else "",
        reason=alert.reason,
        evidence_json=evidence_json(alert.evidence),
        acknowledged_by=alert.acknowledged_by,
    )


def series_message(page: Sequence[StepChunk]) -> query.GetSeriesResponse:
    """A page of closed steps as packed columns."""
    series = series_of(page)

    def named(name: str, values: npt.NDArray[np.float64]) -> query.NamedSeries:
        known = np.isfinite(values)
        return query.NamedSeries(
            name=name,
            known=b"" if known.all() else known.astype(np.uint8).tobytes(),
            values=values.astype("<f8").tobytes(),
        )

    loss = query.NamedSeries(
        name="loss",
        known=b"" if series.loss_known.all() else series.loss_known.astype(np.uint8).tobytes(),
        values=series.loss.astype("<f8").tobytes(),
    )
    return query.GetSeriesResponse(
        count=series.count,
        steps=series.steps.astype("<i8").tobytes(),
        times_unix_seconds=series.times.astype("<f8").tobytes(),
        gradient_norms=series.norm.astype("<f8").tobytes(),
        nonfinite_counts=series.nonfinite.sum(axis=1).astype("<u8").tobytes(),
        flags=series.flags.astype("<u2").tobytes(),
        scalars=[
            loss,
            named("learning_rate", series.learning_rate),
            named("loss_scale", series.loss_scale),
            named("clip_threshold", series.clip_threshold),
            named("clip_coefficient", series.clip_coefficient),
            named("step_seconds", series.step_seconds),
        ],
        ranks_present=series.ranks_present.astype("<u4").tobytes(),
        attempts=series.attempts.astype("<u4").tobytes(),
    )


def summary_message(summary: Summary) -> query.GetSeriesResponse:
    """Buckets of the run's own series."""
    return query.GetSeriesResponse(
        count=summary.count,
        steps=summary.first_steps.astype("<i8").tobytes(),
        resolution=summary.size,
        last_steps=summary.last_steps.astype("<i8").tobytes(),
        step_counts=summary.steps.astype("<u8").tobytes(),
        summaries=[
            query.SummarySeries(
                name=name,
                minima=summary.minimum[:, place].astype("<f8").tobytes(),
                maxima=summary.maximum[:, place].astype("<f8").tobytes(),
                means=summary.mean[:, place].astype("<f8").tobytes(),
                known_counts=summary.known[:, place].astype("<u8").tobytes(),
                nonfinite_counts=summary.nonfinite[:, place].astype("<u8").tobytes(),
            )
            for place, name in enumerate(summary.names)
        ],
        counts=[
            query.NamedCounts(name=name, values=summary.tallies[:, place].astype("<u8").tobytes())
            for place, name in enumerate(TALLIES)
        ],
    )


def naming_damage(
    messages: Iterator[query.GetSeriesResponse], damaged: Callable[[], Sequence[tuple[int, int]]]
) -> Iterator[query.GetSeriesResponse]:
    """The messages, the last of them with what is `damaged`: that is known when all of them have been read."""
    last: query.GetSeriesResponse | None = None
    for message in messages:
        if last is not None:
            yield last
        last = message
    ranges = [query.StepRange(first_step=first, last_step=end) for first, end in damaged()]
    if ranges:
        last = query.GetSeriesResponse() if last is None else last
        last.damaged.extend(ranges)
    if last is not None:
        yield last


def layer_summary_messages(summary: Summary, *, with_names: bool) -> Iterator[query.GetLayersResponse]:
    """Buckets of the layers, in as many messages as their width asks for."""
    rows = max(1, _LAYER_BYTES // (_SUMMARY_BYTES * max(1, len(summary.names))))
    for start in range(0, summary.count, rows):
        chosen = slice(start, start + rows)
        yield query.GetLayersResponse(
            layers=summary.names if with_names and start == 0 else (),
            count=len(summary.steps[chosen]),
            steps=summary.first_steps[chosen].astype("<i8").tobytes(),
            gradient_norms=np.ascontiguousarray(summary.maximum[chosen], "<f4").tobytes(),
            resolution=summary.size,
            last_steps=summary.last_steps[chosen].astype("<i8").tobytes(),
            step_counts=summary.steps[chosen].astype("<u8").tobytes(),
            minima=np.ascontiguousarray(summary.minimum[chosen], "<f4").tobytes(),
            means=np.ascontiguousarray(summary.mean[chosen], "<f4").tobytes(),
            nonfinite_counts=np.ascontiguousarray(summary.nonfinite[chosen], "<u8").tobytes(),
        )


def layer_messages(blocks: Iterable[ClosedBlock]) -> Iterator[query.GetLayersResponse]:
    """Composed blocks as packed rows, in as many messages as their width asks for.

    A message without names has the layers of the message before it. So a block whose layers are gone, or that never
    had any, is rows of NaN under the names that were sent last: every closed step is a row.
    """
    sent: tuple[str, ...] = ()
    for block in blocks:
        names = block.layout.names
        width = len(names or sent)
        rows = max(1, _LAYER_BYTES // (4 * max(1, width)))
        for start in range(0, block.count, rows):
            end = min(start + rows, block.count)
            norms = block.layer_norms[start:end] if names else np.full((end - start, width), np.nan)
            yield query.GetLayersResponse(
                layers=names if names != sent else (),
                count=end - start,
                steps=block.steps[start:end].astype("<i8").tobytes(),
                gradient_norms=np.ascontiguousarray(norms, "<f4").tobytes(),
            )
            sent = names or sent
