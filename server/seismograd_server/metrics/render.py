"""Writes the families of runs in Prometheus' text format or in OpenMetrics, by hand.

prometheus-client would keep a child object per run for ever; here a run that is not in the snapshot is not on the page.
A twin test holds this against prometheus-client's own output.
"""

from __future__ import annotations

from collections.abc import Mapping

from seismograd_server.metrics.choice import ExportLimits, exported
from seismograd_server.metrics.families import (
    LAYER_DEVIATION,
    LAYER_NORM,
    RUN_FAMILIES,
    TRUNCATED,
    Family,
    Head,
    Scalar,
    Series,
    label_value,
)
from seismograd_server.metrics.layers import ShownLayer, shown_layers
from seismograd_server.model import RunView, Snapshot

_NONFINITE = {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}


def render_runs(snapshot: Snapshot, now: float, limits: ExportLimits, *, openmetrics: bool) -> str:
    """All families about runs, each with its HELP and TYPE also when no run has a series in it."""
    views, truncated = exported(snapshot, now, limits)
    by_identity: dict[str, RunView] = {}
    for view in views:
        by_identity.setdefault(_identity(view), view)  # names that only differ invisibly would give a series twice
    lines = [*_head(TRUNCATED, openmetrics=openmetrics), f"{TRUNCATED.name} {_number(truncated)}"]
    for family in RUN_FAMILIES:
        lines += _head(family, openmetrics=openmetrics)
        lines += _samples(family, by_identity)
    norms, deviations = _layers(by_identity, limits)
    lines += [*_head(LAYER_NORM, openmetrics=openmetrics), *norms]
    lines += [*_head(LAYER_DEVIATION, openmetrics=openmetrics), *deviations]
    return "\n".join(lines) + "\n"


def _head(family: Head, *, openmetrics: bool) -> list[str]:
    name, kind = family.name, family.kind
    if openmetrics:
        name = name.removesuffix("_total") if kind == "counter" else name
    elif kind == "stateset":  # the older format does not know it
        kind = "gauge"
    return [f"# HELP {name} {family.help}", f"# TYPE {name} {kind}"]


def _samples(family: Scalar | Family, views: Mapping[str, RunView]) -> list[str]:
    name = family.name
    if isinstance(family, Scalar):
        read = family.value
        return [
            # Most numbers are finite, and a call costs as much as writing one of them does.
            f"{name}{{{identity}}} {float(value)!r}"
            if value - value == 0.0
            else f"{name}{{{identity}}} {_number(value)}"
            for identity, view in views.items()
            if (value := read(view)) is not None
        ]
    lines: list[str] = []
    ends: dict[Series, str] = {}  # most series of such a family end like those of other runs
    for identity, view in views.items():
        begin = f"{name}{{{identity}"
        found = [
            ends.get(series) or ends.setdefault(series, f"{series[0]}}} {_number(series[1])}")
            for series in family.read(view)
        ]
        if found:
            lines.append(begin + f"\n{begin}".join(found))
    return lines


def _layers(views: Mapping[str, RunView], limits: ExportLimits) -> tuple[list[str], list[str]]:
    """The samples of the two families of layers."""
    norms: list[str] = []
    deviations: list[str] = []
    written: dict[str, str] = {}  # runs of one model share their layers' names
    for identity, view in views.items():
        layers: dict[str, ShownLayer] = {}
        for each in shown_layers(view.layers, limits.layers):
            end = written.get(each.name) or written.setdefault(each.name, f',layer="{label_value(each.name)}"}} ')
            layers.setdefault(end, each)  # names that only differ invisibly would give a series twice
        begin = f"{LAYER_NORM.name}{{{identity}"
        norms += [f"{begin}{end}{_number(each.norm)}" for end, each in layers.items()]
        begin = f"{LAYER_DEVIATION.name}{{{identity}"
        deviations += [
            f"{begin}{end}{_number(each.deviation)}" for end, each in layers.items() if each.deviation is not None
        ]
    return norms, deviations


def _identity(view: RunView) -> str:
    key = view.run.key
    return f'project="{label_value(key.project)}",run="{label_value(key.run)}"'


def _number(value: float) -> str:
    text = repr(float(value))
    return text if value - value == 0.0 else _NONFINITE[text]
