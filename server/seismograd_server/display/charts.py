"""The charts of a run: the norm on a log axis, the loss, ranks beside each other. Pure SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seismograd_server.display import svg
from seismograd_server.display.curves import CurveData
from seismograd_server.display.numbers import figure
from seismograd_server.display.scale import LinearScale, LogScale
from seismograd_server.display.text import plural
from seismograd_server.model import Float64, Int64

_WIDTH = 920.0
# A loss that spans more than this cannot be read on a linear axis.
_LOG_RANGE = 50.0
# Beyond it a loss is drawn at the edge: the distance between two such numbers would overflow.
_LOSS_SHOWN = 1e300
# Curves beyond this many are one grey band; the suspect is always drawn.
_MOST_RANKS = 64
# Points of the curve of one rank: of more steps, the largest value of each bucket.
_MOST_RANK_POINTS = 400


@dataclass(frozen=True, slots=True)
class Mark:
    """A numbered mark on a chart."""

    step: int
    number: str
    severity: str  # "critical", "warning" or "info"
    title: str


@dataclass(frozen=True, slots=True)
class Moments:
    """The steps that every chart of an incident shows; None = there was none."""

    onset: int | None = None
    failure: int | None = None


def norm_chart(
    data: CurveData,
    marks: Sequence[Mark],
    moments: Moments,
    identifier: str,
    *,
    height: float = 300.0,
    over_heatmap: float | None = None,
) -> str:
    """The gradient norm on a log axis with its baseline, the clip threshold, broken steps and alerts.

    `over_heatmap` is the left edge of a heatmap of the same steps below it: then each step stands over its column.
    """
    frame = svg.Frame(_WIDTH, height, left=over_heatmap or 56.0, top=46 if marks else 24)
    steps = _step_scale(frame, data, 0.5 if over_heatmap else 0.0)
    shown = np.concatenate((data.norm, data.baseline, data.clip_threshold))
    norms = LogScale.around(shown, frame.y0, frame.y1)
    parts = [_incident(frame, steps, moments, data), svg.horizontal_grid(frame, norms.ticks())]
    parts.append(svg.step_axis(frame, steps.ticks()))
    places = svg.steps_to_places(steps, data.steps)
    parts.extend(
        [
            svg.curve(places, norms.places(data.clip_threshold), "clip-line"),
            svg.curve(places, norms.places(data.baseline), "baseline"),
            svg.curve(places, norms.places(data.norm), "norm"),
        ]
    )
    if len(data.skipped_steps):
        title = "steps that the loss scaler skipped"
        parts.append(svg.crosses(svg.steps_to_places(steps, data.skipped_steps), frame.y0 - 6, "skipped", title))
    if len(data.broken_steps):
        title = f"{plural(data.broken_count, 'step')} with NaN or Inf in the gradients"
        parts.append(svg.crosses(svg.steps_to_places(steps, data.broken_steps), frame.y1 + 6, "broken", title))
    parts.append(_pins(frame, steps, marks, data))
    finite = data.norm[np.isfinite(data.norm)]
    span = f"from {figure(float(finite.min()))} to {figure(float(finite.max()))}" if len(finite) else "not known"
    text = f"Steps {data.first_step:,} to {data.last_step:,}; the norm runs {span}."
    curves = {"gradient norm": data.norm, "usual": data.baseline, "clip threshold": data.clip_threshold}
    readout = svg.readout(frame, steps, data.steps, curves)
    return svg.document(frame, "Gradient norm by step, logarithmic", text, parts, identifier, readout=readout)


def loss_chart(data: CurveData, marks: Sequence[Mark], moments: Moments, identifier: str) -> str:
    """The training loss; logarithmic where it spans too much. Empty when no finite loss is known."""
    line = _Line("Training loss", "loss", np.clip(data.loss, -_LOSS_SHOWN, _LOSS_SHOWN), data.broken_loss_steps)
    return _line_chart(data, line, marks, moments, identifier)


def learning_rate_chart(data: CurveData, marks: Sequence[Mark], moments: Moments, identifier: str) -> str:
    """The learning rate; logarithmic where it spans too much. Empty when none is known."""
    return _line_chart(
        data, _Line("Learning rate", "learning-rate", data.learning_rate, least_span=0.1), marks, moments, identifier
    )


def loss_scale_chart(data: CurveData, marks: Sequence[Mark], moments: Moments, identifier: str) -> str:
    """The factor of a loss scaler; logarithmic where it spans too much. Empty when there is none."""
    return _line_chart(data, _Line("Loss scale", "loss-scale", data.loss_scale), marks, moments, identifier)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    name: str
    css_class: str
    values: Float64  # [m], as the steps of the curves
    broken_steps: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    least_span: float = 0.0  # of the axis, relative to the largest value: what changes by less is shown as level


def _line_chart(data: CurveData, line: _Line, marks: Sequence[Mark], moments: Moments, identifier: str) -> str:
    finite = line.values[np.isfinite(line.values)]
    if not len(finite):
        return ""
    frame = svg.Frame(_WIDTH, 190, top=20)
    steps = _step_scale(frame, data)
    low, high = float(finite.min()), float(finite.max())
    scale: LinearScale | LogScale
    if low > 0 and high / low > _LOG_RANGE:
        scale = LogScale.around(finite, frame.y0, frame.y1)
    else:
        margin = max(0.06 * (high - low), 0.5 * (line.least_span * abs(high) - (high - low))) or 0.5 * abs(high) or 1.0
        scale = LinearScale(low - margin, high + margin, frame.y0, frame.y1, wanted=4)
    parts = [_incident(frame, steps, moments, data), svg.horizontal_grid(frame, scale.ticks())]
    parts.append(svg.step_axis(frame, steps.ticks()))
    parts.append(svg.curve(svg.steps_to_places(steps, data.steps), scale.places(line.values), line.css_class))
    subject = line.name.lower()
    if len(line.broken_steps):
        places = svg.steps_to_places(steps, line.broken_steps)
        parts.append(svg.crosses(places, frame.y1 + 6, "broken", f"steps with NaN or Inf as {subject}"))
    parts.extend(_lines(frame, steps, marks, data))
    span = f"the {subject} runs from {figure(low)} to {figure(high)}"
    text = f"Steps {data.first_step:,} to {data.last_step:,}; {span}."
    readout = svg.readout(frame, steps, data.steps, {subject: line.values})
    return svg.document(frame, f"{line.name} by step", text, parts, identifier, readout=readout)


def ranks_chart(
    steps: Int64, values: Float64, suspect: int | None, moments: Moments, *, title: str, identifier: str
) -> str:
    """A curve per rank on a log axis, the suspect drawn last and strong. Empty when nothing positive is known."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive) or len(steps) < 2:
        return ""
    steps, values = _largest_of_buckets(steps, values)
    frame = svg.Frame(_WIDTH, 190, top=16)
    scale = LogScale.around(values, frame.y0, frame.y1)
    axis = LinearScale(float(steps[0]), float(steps[-1]), frame.x0, frame.x1, wanted=8, whole=True)
    places = svg.steps_to_places(axis, steps)
    parts = [svg.horizontal_grid(frame, scale.ticks()), svg.step_axis(frame, axis.ticks())]
    if moments.onset is not None:
        parts.insert(0, _moment(frame, axis, moments.onset, "onset-line"))
    ranks = [rank for rank in range(values.shape[1]) if rank != suspect]
    # Sampled numbers are joined across the steps between them.
    parts.extend(_joined(places, scale.places(values[:, rank]), "rank") for rank in ranks[:_MOST_RANKS])
    if suspect is not None:
        parts.append(_joined(places, scale.places(values[:, suspect]), "rank-suspect"))
    text = f"{values.shape[1]} ranks, steps {steps[0]:,} to {steps[-1]:,}."
    return svg.document(frame, title, text, parts, identifier)


def _largest_of_buckets(steps: Int64, values: Float64) -> tuple[Int64, Float64]:
    if len(steps) <= _MOST_RANK_POINTS:
        return steps, values
    starts = np.unique(np.linspace(0, len(steps), _MOST_RANK_POINTS, endpoint=False).astype(np.int64))
    return steps[starts], np.fmax.reduceat(values, starts, axis=0)


def _joined(places_x: Float64, places_y: Float64, css_class: str) -> str:
    known = np.isfinite(places_y)
    return svg.curve(places_x[known], places_y[known], css_class)


def _step_scale(frame: svg.Frame, data: CurveData, margin: float = 0.0) -> LinearScale:
    last = max(data.last_step, data.first_step + 1)
    return LinearScale(data.first_step - margin, last + margin, frame.x0, frame.x1, wanted=8, whole=True)


def _incident(frame: svg.Frame, steps: LinearScale, moments: Moments, data: CurveData) -> str:
    if moments.onset is None or not data.first_step <= moments.onset <= data.last_step:
        return ""
    end = data.last_step if moments.failure is None else min(moments.failure, data.last_step)
    edges = steps.places(np.array([moments.onset, max(end, moments.onset)], np.float64)).tolist()
    shading = svg.band(frame, edges[0], edges[1], "incident")
    lines = _moment(frame, steps, moments.onset, "onset-line")
    if moments.failure is not None and moments.failure <= data.last_step:
        lines += _moment(frame, steps, moments.failure, "failure-line")
    return shading + lines


def _moment(frame: svg.Frame, steps: LinearScale, step: int, css_class: str) -> str:
    place = float(steps.places(np.array([step], np.float64))[0])
    return f'<path class="{css_class}" d="M{place:.1f} {frame.y1:g}V{frame.y0:g}"/>'


def _pins(frame: svg.Frame, steps: LinearScale, marks: Sequence[Mark], data: CurveData) -> str:
    shown = sorted((mark for mark in marks if data.first_step <= mark.step <= data.last_step), key=lambda m: m.step)
    wanted = steps.places(np.array([mark.step for mark in shown], np.float64))
    heads = svg.spread(wanted, 21.0, frame.x0 - 4, frame.x1 + 4)
    parts = []
    for mark, place, head in zip(shown, wanted.tolist(), heads.tolist(), strict=True):
        parts.append(svg.pin(frame, svg.Pin(place, head, 18.0, mark.severity, mark.number, mark.title)))
    return "".join(parts)


def _lines(frame: svg.Frame, steps: LinearScale, marks: Sequence[Mark], data: CurveData) -> list[str]:
    shown = [mark for mark in marks if data.first_step <= mark.step <= data.last_step]
    places = steps.places(np.array([mark.step for mark in shown], np.float64)).tolist()
    return [
        f'<g class="pin {mark.severity}"><path class="pin-line" d="M{place:.1f} {frame.y1:g}V{frame.y0:g}"/></g>'
        for mark, place in zip(shown, places, strict=True)
    ]
