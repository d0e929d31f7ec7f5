"""Writes the families of runs in Prometheus' text format or in OpenMetrics, by hand.

prometheus-client would keep a child object per run for ever; here a run that is not in the snapshot is not on the page.
A twin test holds this against prometheus-client's own output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from seismograd_server.display.text import printable
from seismograd_server.metrics.choice import ExportLimits, exported
from seismograd_server.metrics.families import RUN_FAMILIES, Family
from seismograd_server.model import RunView, Snapshot

TRUNCATED = Family(
    "seismograd_exporter_truncated_runs",
    "gauge",
    "Runs that are not on this page because of the limit on exported runs.",
    lambda _: (),
)

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def render_runs(snapshot: Snapshot, now: float, limits: ExportLimits, *, openmetrics: bool) -> str:
    """All families about runs, each with its HELP and TYPE also when no run has a series in it."""
    views, truncated = exported(snapshot, now, limits)
    identities = [_identity(view) for view in views]
    lines = [*_head(TRUNCATED, openmetrics=openmetrics), f"{TRUNCATED.name} {_number(truncated)}"]
    for family in RUN_FAMILIES:
        lines += _head(family, openmetrics=openmetrics)
        for view, identity in zip(views, identities, strict=True):
            for labels, value in family.read(view):
                lines.append(f"{family.name}{{{identity}{_more(labels)}}} {_number(value)}")
    return "\n".join(lines) + "\n"


def label_value(text: str) -> str:
    """A label's value between its quotes: visible, encodable as UTF-8, and unable to end the quotes or the line."""
    return printable(text).translate(_ESCAPES)


def _head(family: Family, *, openmetrics: bool) -> list[str]:
    name, kind = family.name, family.kind
    if openmetrics:
        name = name.removesuffix("_total") if kind == "counter" else name
    elif kind == "stateset":  # the older format does not know it
        kind = "gauge"
    return [f"# HELP {name} {family.help}", f"# TYPE {name} {kind}"]


def _identity(view: RunView) -> str:
    key = view.run.key
    return f'project="{label_value(key.project)}",run="{label_value(key.run)}"'


def _more(labels: Mapping[str, str]) -> str:
    return "".join(f',{name}="{label_value(value)}"' for name, value in labels.items())


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
